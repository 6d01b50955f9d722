"""Global descriptors: multi-scale extraction."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from landmark.competition import Competition
from landmark.descriptor_files import DescriptorFile
from landmark.devices import pick_device, pick_precision
from landmark.errors import UserError
from landmark.images import BadImage, inference_size, read_at_least, resize
from landmark.network import DescriptorNet, describe
from landmark.parallel import ordered_map
from landmark.parts import Parts
from landmark.progress import track
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Scales

# Images that one thread of a CPU describes at a time: faster than all threads at one larger batch.
_CPU_BATCH = 4
# Batches' worth of images that may wait for others of their shape.
_WAITING = 24

_Batch = list[tuple[int, np.ndarray]]  # rows and their images (H, W, 3), all of one shape


def extract(
    net: DescriptorNet,
    read: Callable[[int], np.ndarray],
    count: int,
    settings: Scales,
    device: torch.device,
    workers: int,
    what: str,
) -> tuple[np.ndarray, dict[int, str]]:
    """Unit-length descriptors (count, D) float32 of images, and for those left out, row -> reason.

    read: row -> image (H, W, 3) uint8 RGB, or BadImage. An image is read once and described at each scale, with
    `flip` also its mirror image; the unit descriptors are averaged and brought to unit length again. Images are
    read and scaled by `workers` threads while others are described. Those of one shape make a batch, filled up
    but for the last ones; how they are batched does not depend on the threads, and so the bytes do not either.
    """
    net = net.to(device, memory_format=torch.channels_last).eval()
    precision = pick_precision(settings.precision, device)
    on_cpu = device.type == "cpu"
    total = np.zeros((count, 0), np.float32)
    bad: dict[int, str] = {}

    def scaled(row: int) -> list[np.ndarray] | str:
        try:
            image = read(row)
        except BadImage as error:
            return str(error)
        shapes = (inference_size(*image.shape[:2], settings.longest_side * s) for s in settings.scales)
        return [resize(image, width, height) for height, width in shapes]

    def readable() -> Iterator[tuple[int, np.ndarray]]:
        read_ahead = ordered_map(scaled, range(count), workers)
        for row, images in enumerate(track(read_ahead, count, what, unit="images")):
            if isinstance(images, str):
                bad[row] = images
            else:
                yield from ((row, image) for image in images)

    def describe_batch(batch: _Batch) -> tuple[list[int], np.ndarray]:
        if on_cpu:
            torch.set_num_threads(1)
        rows, images = zip(*batch, strict=True)
        images = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
        reduced = precision != torch.float32
        with torch.inference_mode(), torch.autocast(device.type, precision if reduced else None, reduced):
            vectors = describe(net, images)
            if settings.flip:
                vectors = vectors + describe(net, images.flip(3))
        return list(rows), vectors.cpu().numpy()

    batches = _by_shape(readable(), _CPU_BATCH if on_cpu else settings.batch_size)
    for rows, vectors in ordered_map(describe_batch, batches, workers if on_cpu else 1, ahead=2):
        if total.shape[1] == 0:
            total = np.zeros((count, vectors.shape[1]), np.float32)
        # One image may stand in a batch at two scales that round to the same shape.
        np.add.at(total, rows, vectors)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), bad


def _by_shape(images: Iterable[tuple[int, np.ndarray]], size: int) -> Iterator[_Batch]:
    """Batches of `size` images of one shape, smaller ones when too many images wait and at the end."""
    waiting: dict[tuple, _Batch] = defaultdict(list)
    for row, image in images:
        waiting[image.shape].append((row, image))
        if len(waiting[image.shape]) == size:
            yield waiting.pop(image.shape)
        elif sum(map(len, waiting.values())) >= _WAITING * size:
            yield waiting.pop(max(waiting, key=lambda shape: (len(waiting[shape]), shape)))
    # The largest first, so that the threads end together.
    for shape in sorted(waiting, key=lambda shape: (-len(waiting[shape]) * math.prod(shape), shape)):
        yield waiting[shape]


def describe_split(
    net: DescriptorNet,
    competition: Competition,
    split: str,
    settings: Scales,
    recipe: Recipe,
    file: DescriptorFile,
    *,
    key: str,
    ranks: Ranks,
    what: str,
) -> tuple[int, dict[str, str]]:
    """Write the descriptors of a split's readable images to `file`, shard by shard (see Parts for `key`).

    Returns how many there are and the images left out, id -> reason. Raises UserError when none can be read.
    """
    ids = competition.ids(split)
    device = pick_device(recipe)
    longest_side = settings.longest_side * max(settings.scales)

    def describe_shard(rows: range) -> tuple[np.ndarray, dict[str, str]]:
        # Batches never reach over the end of a shard, so that a shard's bytes do not depend on who makes it.
        def read(row: int) -> np.ndarray:
            return read_at_least(competition.path(split, ids[rows[row]]), longest_side)

        title = f"{what} {rows.start + 1}-{rows.stop} of {len(ids)}"
        vectors, bad = extract(net, read, len(rows), settings, device, recipe.threads, title)
        good = [row for row in range(len(rows)) if row not in bad]
        return vectors[good].astype(np.float16), {ids[rows[row]]: why for row, why in bad.items()}

    bad = Parts(file.vectors_path, len(ids), settings.shard_images, key).make(ranks, describe_shard)

    def refuse_none() -> None:
        if len(bad) == len(ids):
            raise UserError(f"{competition.data}: none of the {len(ids)} {split} images can be read")

    ranks.agree(refuse_none)
    if ranks.first:
        file.write_ids([i for i in ids if i not in bad], bad)
    ranks.wait()
    return len(ids) - len(bad), bad
