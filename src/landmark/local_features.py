"""Local features: points with descriptors that survive a change of viewpoint."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from landmark.images import BadImage, fit, read_image
from landmark.parallel import ordered_map
from landmark.settings import LocalFeatureSettings


@dataclass(frozen=True)
class LocalFeatures:
    """M points of one image.

    points: (M, 2) float32, x and y in pixels of the image they were found in.
    descriptors: (M, D) float32, each of unit L2 length.
    size: width and height of that image.
    """

    points: np.ndarray
    descriptors: np.ndarray
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.points.nbytes + self.descriptors.nbytes


def rootsift(image: np.ndarray, max_points: int) -> LocalFeatures:
    """RootSIFT (Arandjelović and Zisserman, CVPR 2012) of an RGB image (H, W, 3) uint8.

    SIFT descriptors are divided by their L1 length and square-rooted, so that the Euclidean distance between
    them is the Hellinger distance between the histograms. The `max_points` of the strongest contrast are kept.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = gray.shape[::-1]
    keypoints, sift = cv2.SIFT_create(nfeatures=max_points).detectAndCompute(gray, None)
    if sift is None:
        return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32), size)
    # SIFT returns a few more than asked for when several have the same strength.
    points = np.array([k.pt for k in keypoints[:max_points]], np.float32)
    sift = sift[:max_points]
    length = np.maximum(sift.sum(axis=1, keepdims=True), np.finfo(np.float32).eps)
    return LocalFeatures(points, np.sqrt(sift / length), size)


class FeatureCache:
    """Local features of some images, by key: found when first asked for, and only once.

    At most `memory_bytes` of them are held; the others wait in a temporary file in `folder`, which the system
    removes with the process however it ends. One thread uses a cache.
    """

    def __init__(self, find: Callable[[int], LocalFeatures], memory_bytes: int, folder: Path):
        self._find, self._memory_bytes, self._folder = find, memory_bytes, folder
        self._held: OrderedDict[int, LocalFeatures] = OrderedDict()
        self._bytes = 0
        self._file = None
        self._place: dict[int, int] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> "FeatureCache":
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()

    def __getitem__(self, key: int) -> LocalFeatures:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        features = self._load(key) if key in self._place else self._find(key)
        self._hold(key, features)
        return features

    def find_all(self, keys: Iterable[int], workers: int) -> None:
        """Find what is new among the keys, on several threads."""
        new = [key for key in keys if key not in self._held and key not in self._place]
        for key, features in zip(new, ordered_map(self._find, new, workers), strict=True):
            self._hold(key, features)

    def _hold(self, key: int, features: LocalFeatures) -> None:
        self._held[key] = features
        self._bytes += features.nbytes
        # The one asked for stays, and the one before it, which is its partner in a pair.
        while self._bytes > self._memory_bytes and len(self._held) > 2:
            oldest, gone = self._held.popitem(last=False)
            self._bytes -= gone.nbytes
            if oldest not in self._place:
                self._save(oldest, gone)

    def _save(self, key: int, features: LocalFeatures) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with the cache)
        self._place[key] = self._file.seek(0, 2)
        self._sizes[key] = features.size
        for array in (features.points, features.descriptors):
            np.save(self._file, array, allow_pickle=False)

    def _load(self, key: int) -> LocalFeatures:
        self._file.seek(self._place[key])
        points, descriptors = (np.load(self._file, allow_pickle=False) for _ in range(2))
        return LocalFeatures(points, descriptors, self._sizes[key])


# What turns an RGB image (H, W, 3) uint8 into local features.
Extractor = Callable[[np.ndarray], LocalFeatures]


def open_extractor(settings: LocalFeatureSettings, delf_weights: Path | None, device: str) -> Extractor:
    """The features that the settings name, ready for use by several threads."""
    if settings.features == "rootsift":
        return lambda image: rootsift(image, settings.max_points)
    import torch

    from landmark.delf import delf, load_delf

    net, place = load_delf(delf_weights).to(device), torch.device(device)
    return lambda image: delf(net, image, settings, place)


def find_features(path: Path, settings: LocalFeatureSettings, extractor: Extractor) -> LocalFeatures:
    """Local features of one image file, shrunk to the settings' longest side first."""
    try:
        image = fit(read_image(path), settings.longest_side)
    except BadImage:
        # It could be read when it was described; now it verifies with nothing.
        image = np.zeros((1, 1, 3), np.uint8)
    return extractor(image)


def extract_local(
    paths: Iterable[tuple[int, Path]], settings: LocalFeatureSettings, extractor: Extractor, workers: int
) -> dict[int, LocalFeatures]:
    """Local features of many images, by key."""

    def one(entry: tuple[int, Path]) -> tuple[int, LocalFeatures]:
        return entry[0], find_features(entry[1], settings, extractor)

    return dict(ordered_map(one, paths, workers))


def images_within(memory_gib: float, settings: LocalFeatureSettings) -> int:
    """How many images' features fit into a memory setting: at most 128 + 2 floats a point."""
    return int(memory_gib * 2**30 / (settings.max_points * (128 + 2) * 4))
