"""Which train images to believe: spatial verification among neighbours of the same label."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from landmark.neighbours import top_k, without_itself
from landmark.settings import Agreement
from landmark.voting import similarity_term, vote

_ROWS = 65_536  # of the neighbour table that are looked at in one go


def rows_by_label(labels: np.ndarray) -> list[np.ndarray]:
    """The rows (ascending) of each label, in order of label. labels: (N,) ints."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def count_neighbours(neighbours: np.ndarray) -> np.ndarray:
    """How many neighbours each image has: (N,) int64 of (N, L) filled up with -1, in memory or memory-mapped."""
    blocks = range(0, len(neighbours), _ROWS)
    return np.concatenate([(neighbours[start : start + _ROWS] >= 0).sum(axis=1) for start in blocks])


def within_label(neighbours: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The neighbours (N, L) of a label's images, renumbered 0..n-1 in the order of `rows` (n,): (n, L)."""
    mine = np.asarray(neighbours[rows])
    return np.where(mine >= 0, np.searchsorted(rows, mine), -1)


def pairs_of(neighbours: np.ndarray) -> np.ndarray:
    """Each unordered pair of an image and one of its neighbours once: (P, 2), the lower first, sorted."""
    own, place = np.nonzero(neighbours >= 0)
    return np.unique(np.sort(np.stack([own, neighbours[own, place]], axis=1), axis=1), axis=0)


def count_verified(
    neighbours: np.ndarray, verifies: Callable[[int, int], bool], thresholds: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """How many of each image's neighbours verify, counted until it is decided: (n,) int64; and the pairs tried.

    neighbours: (n, L) of one label's images, nearest first, filled up with -1. An image is decided when the pairs
    that it has left can take its count to no further one of `thresholds`; which of them the count reaches is
    then the same as if every pair had been verified. A pair is verified at most once and counts for each of the
    two that has the other among its neighbours. The nearest neighbours of all images come first, and before all
    others the pairs that can bring both their images forward.
    """
    looks_at = [set(row[row >= 0].tolist()) for row in neighbours]
    left = [len(others) for others in looks_at]
    counts = [0] * len(neighbours)
    tried = set()

    def decided(image: int) -> bool:
        return not any(counts[image] < t <= counts[image] + left[image] for t in thresholds)

    near = [(image, other) for column in neighbours.T.tolist() for image, other in enumerate(column) if other >= 0]
    for both in (True, False):
        for image, other in near:
            pair = (image, other) if image < other else (other, image)
            if pair in tried or decided(image) or (both and (image not in looks_at[other] or decided(other))):
                continue
            tried.add(pair)
            proved = verifies(*pair)
            for one, two in (pair, pair[::-1]):
                if two in looks_at[one]:
                    left[one] -= 1
                    counts[one] += proved
    return np.array(counts, np.int64), len(tried)


def agreement(
    vectors: np.ndarray, labels: np.ndarray, seeds: np.ndarray, settings: Agreement, memory_gib: float
) -> tuple[np.ndarray, np.ndarray]:
    """The label that an image's nearest verified images vote for, and how strongly: (N,) int64, (N,) float64.

    On small sets geometry alone is scarce: a landmark seen from all sides in forty photographs leaves many right
    ones without a single verified partner. Here the images with at least one (`seeds`, (N,) bool) vote, as in
    recognition, on every image but themselves; the support is the sum of 1 - squared distance over those of the
    winning label, divided by the number of voters. Without voters the label is the image's own, the support 0.
    """
    gallery = np.flatnonzero(seeds)
    voters = min(settings.neighbours, len(gallery) - 1)
    if voters < 1:
        return labels.copy(), np.zeros(len(labels))
    cosine, found = top_k(vectors, vectors[gallery], voters + 1, memory_gib)
    cosine, rows = without_itself(cosine, gallery[found], np.arange(len(vectors)), voters)
    winner, total = vote(labels[rows], similarity_term(cosine))
    return winner, total / voters


def decide(frame: pd.DataFrame, more_than: int, min_support: float | None, min_images: int) -> pd.DataFrame:
    """Add `kept`, `contradicted` (bool) and `reason` to a table with landmark_id, neighbours, verified and, where
    agreement is in use (min_support is not None), voted and support.

    An image is kept when more than `more_than` neighbours verify, or verified images vote for its label with
    `min_support`; with that support for another label it is contradicted, and with less undecided. A label left
    with fewer than `min_images` images is dropped.
    """
    by_geometry = frame["verified"] > more_than
    by_agreement = contradicted = pd.Series(False, index=frame.index)
    if min_support is not None:
        strong, own = frame["support"] >= min_support, frame["voted"] == frame["landmark_id"]
        by_agreement, contradicted = strong & own, strong & ~own & ~by_geometry
    kept = by_geometry | by_agreement
    left = kept.groupby(frame["landmark_id"]).transform("sum")
    reason = np.select(
        [
            kept & (left < min_images),
            by_geometry,
            by_agreement,
            contradicted,
            frame["neighbours"] <= more_than,
            frame["verified"] == 0,
        ],
        [
            "label left with too few images",
            "verified",
            "agrees with verified images",
            "verified images vote for another label",
            "too few neighbours of its label",
            "no neighbour verified",
        ],
        "too few neighbours verified",
    )
    return frame.assign(kept=kept & (left >= min_images), contradicted=contradicted, reason=reason)
