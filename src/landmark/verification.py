"""Spatial verification: do two images show the same rigid thing?"""

from dataclasses import dataclass

import cv2
import numpy as np

from landmark.local_features import LocalFeatures
from landmark.parallel import ordered_map
from landmark.recipe import VerificationSettings

# A transform of `minimum` matches fits them always; below that there is nothing to count.
_MODELS = {"homography": 4, "affine": 3}


@dataclass(frozen=True)
class Verification:
    """inliers: how many matches agree with one transform; transform: (3, 3) float64 from a to b, or None."""

    inliers: int
    transform: np.ndarray | None


def match(a: np.ndarray, b: np.ndarray, ratio: float) -> np.ndarray:
    """Mutual nearest neighbours that pass Lowe's ratio test.

    a: (M, D), b: (N, D) float32 of unit length. Returns (P, 2) intp, rows of a and b.
    A match is kept when each is the other's nearest, and the nearest in b is closer than `ratio` times the
    second nearest (Lowe, IJCV 2004).
    """
    if len(a) == 0 or len(b) < 2:
        return np.zeros((0, 2), np.intp)
    similarity = a @ b.T
    best_two = np.argpartition(-similarity, 1, axis=1)[:, :2]
    values = np.take_along_axis(similarity, best_two, axis=1)
    order = np.argmax(values, axis=1)
    rows = np.arange(len(a))
    nearest = best_two[rows, order]
    first, second = values[rows, order], values[rows, 1 - order]
    distance_first = np.sqrt(np.maximum(2 - 2 * first, 0))
    distance_second = np.sqrt(np.maximum(2 - 2 * second, 0))
    mutual = np.argmax(similarity, axis=0)[nearest] == rows
    keep = mutual & (distance_first < ratio * distance_second)
    return np.stack([rows[keep], nearest[keep]], axis=1)


def verify(a: LocalFeatures, b: LocalFeatures, settings: VerificationSettings) -> Verification:
    """Count the matches of two images that one homography or affine transform explains.

    settings: ratio of the ratio test, model, and threshold, the largest reprojection error in pixels. The
    transform is found by MAGSAC++ (Barath et al., CVPR 2020; OpenCV's USAC), where the authors of the 2019
    solution used 1000 rounds of plain RANSAC.
    """
    pairs = match(a.descriptors, b.descriptors, settings.ratio)
    if len(pairs) <= _MODELS[settings.model]:
        return Verification(0, None)
    source, target = a.points[pairs[:, 0]], b.points[pairs[:, 1]]
    if settings.model == "homography":
        transform, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, settings.threshold, maxIters=1000)
    else:
        transform, mask = cv2.estimateAffine2D(
            source, target, method=cv2.USAC_MAGSAC, ransacReprojThreshold=settings.threshold, maxIters=1000
        )
        if transform is not None:
            transform = np.vstack([transform, [0, 0, 1]])
    if transform is None:
        return Verification(0, None)
    return Verification(int(mask.sum()), transform)


def count_inliers(
    pairs: np.ndarray,
    a: dict[int, LocalFeatures],
    b: dict[int, LocalFeatures],
    settings: VerificationSettings,
    workers: int,
) -> np.ndarray:
    """Inliers of many pairs: (P, 2) keys of a and of b -> (P,) int64."""
    found = ordered_map(lambda pair: verify(a[pair[0]], b[pair[1]], settings).inliers, pairs.tolist(), workers, 64)
    return np.fromiter(found, np.int64, len(pairs))
