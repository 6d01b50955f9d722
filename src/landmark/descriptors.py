"""Global descriptors: multi-scale extraction."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from landmark.competition import Competition
from landmark.descriptor_files import DescriptorFile
from landmark.devices import pick_device
from landmark.errors import UserError
from landmark.images import BadImage, inference_size, read_image, resize
from landmark.network import DescriptorNet, describe
from landmark.parallel import ordered_map
from landmark.parts import Parts
from landmark.progress import track
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Scales

_PIECE = 4  # images that one thread of a CPU describes at a time


def extract(
    net: DescriptorNet,
    paths: Sequence,
    settings: Scales,
    device: torch.device,
    workers: int,
    what: str,
    read: Callable[[object], np.ndarray] = read_image,
) -> tuple[np.ndarray, dict[int, str]]:
    """Unit-length descriptors (N, D) float32 of N images, and for those left out, row -> reason.

    read: makes an image of each of `paths`, or raises BadImage.

    An image is decoded once and described at each scale; the unit descriptors are averaged and brought to unit
    length again. Images of one shape are batched, and each shape holds at most one batch of waiting images. On a
    CPU a batch is cut into small pieces, each described by one thread: that is faster than all threads at one
    batch, and the bytes do not depend on how many threads there are.
    """
    net = net.to(device, memory_format=torch.channels_last).eval()
    total = np.zeros((len(paths), 0), np.float32)
    bad: dict[int, str] = {}
    waiting: dict[tuple[int, int], list] = defaultdict(list)

    def scaled(path: object) -> list | str:
        try:
            image = read(path)
        except BadImage as error:
            return str(error)
        shapes = (inference_size(*image.shape[:2], settings.longest_side * s) for s in settings.scales)
        return [resize(image, width, height) for height, width in shapes]

    def describe_piece(images: torch.Tensor) -> torch.Tensor:
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.inference_mode():
            return describe(net, images)

    def flush(shape: tuple[int, int]) -> None:
        nonlocal total
        rows, batch = zip(*waiting.pop(shape), strict=True)
        images = torch.from_numpy(np.stack(batch)).to(device).permute(0, 3, 1, 2)
        pieces = images.split(_PIECE) if device.type == "cpu" else [images]
        vectors = torch.cat(list(pool.map(describe_piece, pieces))).cpu().numpy()
        if total.shape[1] == 0:
            total = np.zeros((len(paths), vectors.shape[1]), np.float32)
        # One image may stand in a batch at two scales that round to the same shape.
        np.add.at(total, list(rows), vectors)

    with ThreadPoolExecutor(workers if device.type == "cpu" else 1) as pool:
        for row, images in enumerate(track(ordered_map(scaled, paths, workers), len(paths), what, unit="images")):
            if isinstance(images, str):
                bad[row] = images
                continue
            for image in images:
                shape = image.shape[:2]
                waiting[shape].append((row, image))
                if len(waiting[shape]) == settings.batch_size:
                    flush(shape)
        for shape in sorted(waiting):
            flush(shape)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), bad


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
    """Write the descriptors of a split's readable images to `file`, part by part (see Parts for `key`).

    Returns how many there are and the images left out, id -> reason. Raises UserError when none can be read.
    """
    ids = competition.ids(split)
    device = pick_device(recipe)

    def describe_part(rows: range) -> tuple[np.ndarray, dict[str, str]]:
        # Batches never reach over the end of a part, so that a part's bytes do not depend on who makes it.
        paths = [competition.path(split, ids[row]) for row in rows]
        title = f"{what} {rows.start + 1}-{rows.stop} of {len(ids)}"
        vectors, bad = extract(net, paths, settings, device, recipe.threads, title)
        good = [row for row in range(len(rows)) if row not in bad]
        return vectors[good].astype(np.float16), {ids[rows[row]]: why for row, why in bad.items()}

    bad = Parts(file.vectors_path, len(ids), 32 * settings.batch_size, key).make(ranks, describe_part)

    def refuse_none() -> None:
        if len(bad) == len(ids):
            raise UserError(f"{competition.data}: none of the {len(ids)} {split} images can be read")

    ranks.agree(refuse_none)
    if ranks.first:
        file.write_ids([i for i in ids if i not in bad], bad)
    ranks.wait()
    return len(ids) - len(bad), bad
