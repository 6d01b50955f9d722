"""Local features: points with descriptors that survive a change of viewpoint."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from landmark.images import BadImage, fit, read_image
from landmark.parallel import ordered_map
from landmark.recipe import LocalFeatureSettings


@dataclass(frozen=True)
class LocalFeatures:
    """M points of one image.

    points: (M, 2) float32, x and y in pixels of the image they were found in.
    descriptors: (M, D) float32, each of unit L2 length.
    """

    points: np.ndarray
    descriptors: np.ndarray


def rootsift(image: np.ndarray, max_points: int) -> LocalFeatures:
    """RootSIFT (Arandjelović and Zisserman, CVPR 2012) of an RGB image (H, W, 3) uint8.

    SIFT descriptors are divided by their L1 length and square-rooted, so that the Euclidean distance between
    them is the Hellinger distance between the histograms. The `max_points` of the strongest contrast are kept.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    keypoints, sift = cv2.SIFT_create(nfeatures=max_points).detectAndCompute(gray, None)
    if sift is None:
        return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    # SIFT returns a few more than asked for when several have the same strength.
    points = np.array([k.pt for k in keypoints[:max_points]], np.float32)
    sift = sift[:max_points]
    length = np.maximum(sift.sum(axis=1, keepdims=True), np.finfo(np.float32).eps)
    return LocalFeatures(points, np.sqrt(sift / length))


def images_within(memory_gib: float, settings: LocalFeatureSettings) -> int:
    """How many images' RootSIFT features fit into a memory setting: 128 + 2 floats a point."""
    return int(memory_gib * 2**30 / (settings.max_points * (128 + 2) * 4))


def extract_local(
    paths: Iterable[tuple[int, Path]], settings: LocalFeatureSettings, workers: int
) -> dict[int, LocalFeatures]:
    """RootSIFT of many images, by key; images are shrunk to the settings' longest side first."""

    def one(entry: tuple[int, Path]) -> tuple[int, LocalFeatures]:
        key, path = entry
        try:
            image = fit(read_image(path), settings.longest_side)
        except BadImage:
            # It could be read when it was described; now it verifies with nothing.
            image = np.zeros((1, 1, 3), np.uint8)
        return key, rootsift(image, settings.max_points)

    return dict(ordered_map(one, paths, workers))
