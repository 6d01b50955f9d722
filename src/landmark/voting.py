"""Soft voting of the nearest train images: labels for re-ranking, and recognition."""

import numpy as np

from landmark.neighbours import top_k


def similarity_term(cosine: np.ndarray) -> np.ndarray:
    """1 - squared Euclidean distance of unit vectors, from their cosine."""
    return 2 * cosine - 1


def inlier_term(inliers: np.ndarray, cap: int, floor: int = 0) -> np.ndarray:
    """min(cap, inliers) / cap (authors' recognition, cap 70), in 0..1.

    With a floor, counts up to it give 0 and the rest is stretched to 0..1: a wrong pair has some inliers by
    chance, and where right ones have not many more these would be noise.
    """
    return np.clip(inliers - floor, 0, cap - floor) / (cap - floor)


def vote(labels: np.ndarray, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label with the largest sum of terms among each row's neighbours, and that sum.

    labels: (N, K) ints, terms: (N, K). Returns (N,) labels and (N,) float64 sums. Of equal sums the label of the
    nearer neighbour wins.
    """
    same = labels[:, :, None] == labels[:, None, :]
    sums = np.where(same, terms[:, None, :].astype(np.float64), 0).sum(axis=2)
    winner = sums.argmax(axis=1)
    rows = np.arange(len(labels))
    return labels[rows, winner], sums[rows, winner]


def soft_labels(
    vectors: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int, memory_gib: float
) -> tuple[np.ndarray, np.ndarray]:
    """Label and score of each image by its k nearest gallery images: (N,) ints and (N,) float64.

    The score is the winner's sum of 1 - squared distance, divided by k (method, section 4).
    """
    cosine, rows = top_k(vectors, gallery, k, memory_gib)
    winner, total = vote(labels[rows], similarity_term(cosine))
    return winner, total / k


def ban_frequent(labels: np.ndarray, scores: np.ndarray, above: int) -> np.ndarray:
    """Scores with the predictions of too frequent labels moved to the end of the ranking.

    A label predicted for more than `above` images is taken for a thing that is no landmark (a sky, a person);
    its score becomes minus its count, as in the authors' code, so that the most frequent come last.
    labels: (N,), scores: (N,) -> (N,) float64.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    count = counts[inverse]
    return np.where(count > above, -count.astype(np.float64), scores)
