"""Soft voting of the nearest train images: labels for re-ranking, and recognition."""

from collections.abc import Callable

import numpy as np


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
    sums = np.zeros(labels.shape)
    # Neighbour by neighbour, since K is small and an (N, K, K) array is not.
    for place in range(labels.shape[1]):
        sums += np.where(labels == labels[:, place, None], terms[:, place, None], 0)
    winner = sums.argmax(axis=1)
    rows = np.arange(len(labels))
    return labels[rows, winner], sums[rows, winner]


def soft_labels(cosine: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and score of images by their nearest train images: (N,) ints and (N,) float64.

    cosine, labels: (N, K) of the K nearest. The score is the winner's sum of 1 - squared distance, divided by K
    (method, section 4).
    """
    winner, total = vote(labels, similarity_term(cosine))
    return winner, total / labels.shape[1]


# Which pairs are in the lead, when every pair has the terms (N, K) given: a mask of the same shape.
Leaders = Callable[[np.ndarray], np.ndarray]


def leading_label(labels: np.ndarray) -> Leaders:
    """The pairs whose label wins the vote; labels: (N, K)."""
    return lambda terms: labels == vote(labels, terms)[0][:, None]


def leading_pairs(k: int) -> Leaders:
    """The k pairs with the largest terms of each row; of equal ones the nearer."""

    def lead(terms: np.ndarray) -> np.ndarray:
        mask = np.zeros(terms.shape, bool)
        np.put_along_axis(mask, np.argsort(-terms, axis=1, kind="stable")[:, :k], True, axis=1)
        return mask

    return lead


def verify_leaders(
    similarity: np.ndarray,
    leaders: Leaders,
    count_inliers: Callable[[np.ndarray, np.ndarray], np.ndarray],
    cap: int,
    floor: int,
) -> np.ndarray:
    """Inliers of the pairs that can change the result: (N, K) int64, -1 where a pair cannot.

    similarity: (N, K) terms. count_inliers: rows and places (M,) of pairs -> their inliers (M,). An inlier term is
    at most 1, so a pair not yet verified is given that. Who then leads is verified; who leads with nothing left to
    verify has won, since the others have at most what they were given. The result is that of verifying all.
    """
    inliers = np.full(similarity.shape, -1, np.int64)
    while True:
        open_ = inliers < 0
        most = similarity + np.where(open_, 1.0, inlier_term(inliers, cap, floor))
        todo = leaders(most) & open_
        if not todo.any():
            return inliers
        inliers[todo] = count_inliers(*np.nonzero(todo))


def ban_frequent(labels: np.ndarray, scores: np.ndarray, above: int) -> np.ndarray:
    """Scores with the predictions of too frequent labels moved to the end of the ranking.

    A label predicted for more than `above` images is taken for a thing that is no landmark (a sky, a person);
    its score becomes minus its count, as in the authors' code, so that the most frequent come last.
    labels: (N,), scores: (N,) -> (N,) float64.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    count = counts[inverse]
    return np.where(count > above, -count.astype(np.float64), scores)
