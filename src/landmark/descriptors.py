"""Global descriptors: multi-scale extraction."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from landmark.competition import Competition
from landmark.devices import pick_device
from landmark.errors import UserError
from landmark.images import BadImage, inference_size, read_image, resize
from landmark.network import DescriptorNet, describe
from landmark.parallel import ordered_map
from landmark.progress import track
from landmark.recipe import Recipe, Scales


def extract(
    net: DescriptorNet, paths: list[Path], settings: Scales, device: torch.device, workers: int, what: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Unit-length descriptors (N, D) float32 of N images, and for those left out, row -> reason.

    An image is decoded once and described at each scale; the unit descriptors are averaged and brought to unit
    length again. Images of one shape are batched, and each shape holds at most one batch of waiting images.
    """
    net = net.to(device, memory_format=torch.channels_last).eval()
    total = np.zeros((len(paths), 0), np.float32)
    bad: dict[int, str] = {}
    waiting: dict[tuple[int, int], list] = defaultdict(list)

    def scaled(path: Path) -> list | str:
        try:
            image = read_image(path)
        except BadImage as error:
            return str(error)
        shapes = (inference_size(*image.shape[:2], settings.longest_side * s) for s in settings.scales)
        return [resize(image, width, height) for height, width in shapes]

    def flush(shape: tuple[int, int]) -> None:
        nonlocal total
        rows, batch = zip(*waiting.pop(shape), strict=True)
        images = torch.from_numpy(np.stack(batch)).to(device).permute(0, 3, 1, 2)
        vectors = describe(net, images).cpu().numpy()
        if total.shape[1] == 0:
            total = np.zeros((len(paths), vectors.shape[1]), np.float32)
        # One image may stand in a batch at two scales that round to the same shape.
        np.add.at(total, list(rows), vectors)

    with torch.inference_mode():
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
    net: DescriptorNet, competition: Competition, split: str, settings: Scales, recipe: Recipe, what: str
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Descriptors (N, D) and ids of a split's readable images, and the others, id -> reason.

    Raises UserError when no image can be read.
    """
    ids = competition.ids(split)
    paths = [competition.path(split, i) for i in ids]
    vectors, bad = extract(net, paths, settings, pick_device(recipe), recipe.threads, what)
    if len(bad) == len(ids):
        raise UserError(f"{competition.data}: none of the {len(ids)} {split} images can be read")
    good = [row for row in range(len(ids)) if row not in bad]
    return vectors[good], [ids[row] for row in good], {ids[row]: why for row, why in bad.items()}
