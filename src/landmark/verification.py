"""Spatial verification: do two images show the same rigid thing?"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from landmark.local_features import LocalFeatures
from landmark.parallel import ordered_map
from landmark.settings import VerificationSettings

# A transform of `minimum` matches fits them always; below that there is nothing to count.
_MODELS = {"homography": 4, "affine": 3}


@dataclass(frozen=True)
class Verification:
    """inliers: how many matches agree with one transform; transform: (3, 3) float64 from a to b, or None."""

    inliers: int
    transform: np.ndarray | None


_NONE = Verification(0, None)


def match(a: np.ndarray, b: np.ndarray, ratio: float, max_distance: float = 2.0) -> np.ndarray:
    """Mutual nearest neighbours that pass Lowe's ratio test and are no farther apart than `max_distance`.

    a: (M, D), b: (N, D) float32 of unit length. Returns (P, 2) intp, rows of a and b.
    A match is kept when each is the other's nearest, and the nearest in b is closer than `ratio` times the
    second nearest (Lowe, IJCV 2004).
    """
    if len(a) == 0 or len(b) < 2:
        return np.zeros((0, 2), np.intp)
    similarity = a @ b.T
    rows = np.arange(len(a))
    nearest = similarity.argmax(axis=1)
    first = similarity[rows, nearest]
    # Two scans for a maximum are several times as fast as a partial sort.
    similarity[rows, nearest] = -np.inf
    second = similarity.max(axis=1)
    similarity[rows, nearest] = first
    distance_first = np.sqrt(np.maximum(2 - 2 * first, 0))
    distance_second = np.sqrt(np.maximum(2 - 2 * second, 0))
    kept = np.flatnonzero((distance_first < ratio * distance_second) & (distance_first <= max_distance))
    # Only for what is left, mostly a few in a hundred, it is asked whether the choice is mutual.
    kept = kept[similarity[:, nearest[kept]].max(axis=0) <= first[kept]]
    return np.stack([kept, nearest[kept]], axis=1)


def near_sides(points: np.ndarray, size: tuple[int, int], share: float) -> np.ndarray:
    """Which of the points (P, 2) lie within `share` of the shorter side of any side of an image: (P,) bool."""
    to_side = np.minimum(points, np.array(size) - points).min(axis=1)
    return to_side < share * min(size)


def squeezed(points: np.ndarray, size: tuple[int, int], share: float) -> bool:
    """Whether four in five of the points lie in one strip along a side of the image.

    points: (P, 2) pixels; size: width and height; share: the strip's width, of the image's shorter side.
    """
    low, high = np.quantile(points, [0.1, 0.9], axis=0)
    return bool((high - low).min() < share * min(size))


def verify(a: LocalFeatures, b: LocalFeatures, settings: VerificationSettings) -> Verification:
    """Count the matches of two images that one homography or affine transform explains.

    settings: ratio and max_distance of the matches, model, threshold (the largest reprojection error in pixels),
    and strip. The transform is found by MAGSAC++ (Barath et al., CVPR 2020; OpenCV's USAC), where the authors of
    the 2019 solution used 1000 rounds of plain RANSAC.

    Stock photographs share captions, frames and marks. When the agreeing matches are squeezed into a thin strip of
    both images, or four in five of them lie near the sides of both, they are taken away, and what is left has to
    agree by itself.
    """
    if min(len(a.points), len(b.points)) <= _MODELS[settings.model]:
        return _NONE
    pairs = match(a.descriptors, b.descriptors, settings.ratio, settings.max_distance)
    source, target = a.points[pairs[:, 0]], b.points[pairs[:, 1]]
    while len(source) > _MODELS[settings.model]:
        transform, inliers = _estimate(source, target, settings)
        if transform is None:
            return _NONE
        sides = ((source[inliers], a.size), (target[inliers], b.size))
        in_strip = all(squeezed(points, size, settings.strip) for points, size in sides)
        at_sides = np.logical_and(*(near_sides(points, size, settings.border) for points, size in sides))
        if not in_strip and at_sides.mean() < 0.8:
            return Verification(int(inliers.sum()), transform)
        source, target = source[~inliers], target[~inliers]
    return _NONE


def _estimate(source: np.ndarray, target: np.ndarray, settings: VerificationSettings) -> tuple:
    """The transform (3, 3), or None, and which of the matches (P, 2) agree with it: (P,) bool."""
    if settings.model == "homography":
        transform, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, settings.threshold, maxIters=1000)
    else:
        transform, mask = cv2.estimateAffine2D(
            source, target, method=cv2.USAC_MAGSAC, ransacReprojThreshold=settings.threshold, maxIters=1000
        )
        if transform is not None:
            transform = np.vstack([transform, [0, 0, 1]])
    inliers = np.zeros(len(source), bool) if mask is None else mask.ravel().astype(bool)
    return (transform, inliers) if inliers.any() else (None, inliers)


def count_inliers(
    pairs: np.ndarray,
    a: Mapping[int, LocalFeatures],
    b: Mapping[int, LocalFeatures],
    settings: VerificationSettings,
    workers: int,
) -> np.ndarray:
    """Inliers of many pairs: (P, 2) keys of a and of b -> (P,) int64. Only the calling thread looks them up."""
    with one_blas_thread():
        looked_up = ((a[one], b[two]) for one, two in pairs.tolist())
        found = ordered_map(lambda p: verify(*p, settings).inliers, looked_up, workers, 64)
        return np.fromiter(found, np.int64, len(pairs))


def one_blas_thread() -> threadpool_limits:
    """While several threads verify, each multiplies its matrices by itself."""
    return threadpool_limits(1, user_api="blas")
