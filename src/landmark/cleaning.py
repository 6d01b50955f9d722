"""Which train images to believe: spatial verification among neighbours of the same label."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from landmark.neighbours import top_k
from landmark.recipe import Agreement
from landmark.voting import similarity_term, vote


def same_label_neighbours(
    vectors: np.ndarray, labels: np.ndarray, k: int, limit: int, memory_gib: float
) -> list[np.ndarray]:
    """For each image the rows of its at most `limit` nearest of the same label among its k nearest, itself out.

    vectors: (N, D) of unit length, labels: (N,).
    """
    k = min(k, len(vectors) - 1)
    # Only what is kept of a block's k neighbours outlives the block.
    block = max(1, int(memory_gib * 2**30 / 4) // ((k + 1) * 32))
    kept = []
    for start in range(0, len(vectors), block):
        _, rows = top_k(vectors[start : start + block], vectors, k + 1, memory_gib / 2)
        own = np.arange(start, start + len(rows))[:, None]
        same = (labels[rows] == labels[own]) & (rows != own)
        # Of copies of one photograph, an image may not be among its own k + 1 nearest.
        kept += [row[keep][: min(limit, k)] for row, keep in zip(rows, same, strict=True)]
    return kept


def pairs_of(neighbours: list[np.ndarray]) -> np.ndarray:
    """Each unordered pair once: (P, 2) with the lower row first, sorted."""
    own = np.repeat(np.arange(len(neighbours)), [len(row) for row in neighbours])
    other = np.concatenate([np.zeros(0, np.int64), *neighbours])
    return np.unique(np.sort(np.stack([own, other], axis=1), axis=1), axis=0)


def pairs_by_label(pairs: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs of one label after the other, so that local features are held for one label at a time."""
    of_pair = labels[pairs[:, 0]]
    order = np.argsort(of_pair, kind="stable")
    if len(order):
        yield from np.split(pairs[order], np.flatnonzero(np.diff(of_pair[order])) + 1)


def count_verified(neighbours: list[np.ndarray], verified_pairs: np.ndarray) -> np.ndarray:
    """How many of each image's neighbours verify: (N,) int64. verified_pairs: (V, 2) unordered."""
    verified = {tuple(sorted(pair)) for pair in verified_pairs.tolist()}
    return np.array(
        [sum((min(i, j), max(i, j)) in verified for j in row.tolist()) for i, row in enumerate(neighbours)],
        np.int64,
    )


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
    rows = gallery[found]
    # A stable sort sends the image itself, if it is there, behind the others.
    itself = rows == np.arange(len(rows))[:, None]
    order = np.argsort(itself, axis=1, kind="stable")[:, :voters]
    rows, cosine = np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosine, order, axis=1)
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
            frame["neighbours"] == 0,
            frame["verified"] == 0,
        ],
        [
            "label left with too few images",
            "verified" if more_than >= 0 else "every image is kept",
            "agrees with verified images",
            "verified images vote for another label",
            "no neighbour of its label",
            "no neighbour verifies",
        ],
        "too few neighbours verify",
    )
    return frame.assign(kept=kept & (left >= min_images), contradicted=contradicted, reason=reason)
