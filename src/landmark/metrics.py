"""The metrics of the Landmark 2019 challenges, as the scorer published with the data set defines them.

Source: tensorflow/models, research/delf/delf/python/datasets/google_landmarks_dataset/metrics.py. Where that
scorer fails for want of any test image with a non-empty truth, these functions return NaN.

Where several figures or subsets of one submission are wanted, `rank_predictions` and `find_hits` do the dear part
once.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hits:
    """Where relevant index ids stand for the first time among the first k of the lists of Q queries.

    `queries` are the Q with something relevant, `relevant` (Q,) int64 counts it. Hit number h, of H, belongs to
    queries[query[h]] and stands at rank[h], from 1; both are (H,) int64, in ascending order of query, then rank.
    """

    queries: list[str]
    relevant: np.ndarray
    query: np.ndarray
    rank: np.ndarray
    k: int

    def average_precisions(self) -> np.ndarray:
        """AP@k (Q,): the sum of the precisions at the hits, divided by min(relevant, k)."""
        # Hits of a query lie side by side, so that a hit's number within its query is the distance to the first.
        start = np.searchsorted(self.query, self.query)
        precision = (np.arange(len(self.query)) - start + 1) / self.rank
        total = np.bincount(self.query, precision, minlength=len(self.queries))
        return total / np.minimum(self.relevant, self.k)

    def counts(self, depth: int) -> np.ndarray:
        """Hits among the first `depth`, at most k, of each list: (Q,) int64."""
        return np.bincount(self.query[self.rank <= depth], minlength=len(self.queries))

    def first_ranks(self) -> np.ndarray:
        """Rank of each query's first hit, k + 1 where the first k hold none: (Q,) int64."""
        first = np.full(len(self.queries), self.k + 1)
        np.minimum.at(first, self.query, self.rank)
        return first


def find_hits(truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], k: int = 100) -> Hits:
    """The hits among the first k, of which every figure of retrieval follows.

    Arguments and errors as in `mean_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    queries = labelled_ids(truth)
    found, ranks = [], []
    for row, query in enumerate(queries):
        for rank in _hit_ranks(truth[query], predictions.get(query, ()), k):
            found.append(row)
            ranks.append(rank)
    relevant = np.array([len(truth[query]) for query in queries], dtype=np.int64)
    return Hits(queries, relevant, np.array(found, dtype=np.int64), np.array(ranks, dtype=np.int64), k)


def rank_predictions(
    truth: Mapping[str, Set[int]], predictions: Mapping[str, tuple[int, float]]
) -> tuple[list[str], np.ndarray]:
    """The N predicted test ids, best score first, and whether each one's landmark is right, (N,) bool.

    Arguments and errors as in `global_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    test_ids = sorted(predictions)
    scores = np.array([predictions[test_id][1] for test_id in test_ids], dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"the score of test id {test_ids[np.isnan(scores).argmax()]} is NaN and cannot be ranked")
    # Stable, so that equal scores keep the order of the ids.
    ranked = [test_ids[place] for place in np.argsort(-scores, kind="stable").tolist()]
    return ranked, np.array([predictions[i][0] in truth[i] for i in ranked], dtype=bool)


def average_precision(correct: np.ndarray, labelled: int) -> float:
    """Precision at each right prediction, summed, over the number of labelled images; NaN without any.

    `correct` (N,) bool is in the order of rank, as `rank_predictions` gives it.
    """
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    return float(precision[correct].sum() / labelled) if labelled else math.nan


def global_average_precision(
    truth: Mapping[str, Set[int]],
    predictions: Mapping[str, tuple[int, float]],
    ignore_unlabelled: bool = False,
) -> float:
    """GAP, also called micro AP, the metric of the recognition challenge; in [0, 1].

    `truth` maps each test id to the landmarks it shows, `predictions` some of the test ids to
    (landmark, score). Scores are compared across all images; equal scores are ranked by test id. A prediction
    for an image without a landmark is wrong, unless `ignore_unlabelled` leaves those images out.
    Raises ValueError for a test id that `truth` lacks and for a score that is NaN.
    """
    ranked, correct = rank_predictions(truth, predictions)
    if ignore_unlabelled:
        correct = correct[np.array([bool(truth[test_id]) for test_id in ranked], dtype=bool)]
    return average_precision(correct, len(labelled_ids(truth)))


def top1_accuracy(truth: Mapping[str, Set[int]], predictions: Mapping[str, tuple[int, float]]) -> float:
    """Share of the test images with a landmark for which one of their landmarks is predicted, at any score.

    Arguments and errors as in `global_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    labelled = labelled_ids(truth)
    right = sum(test_id in predictions and predictions[test_id][0] in truth[test_id] for test_id in labelled)
    return right / len(labelled) if labelled else math.nan


def mean_average_precision(
    truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], k: int = 100
) -> float:
    """mAP@k, the metric of the retrieval challenge; in [0, 1].

    `truth` maps each query to the set of relevant index ids, `predictions` some of the queries to index ids,
    best first. A query's AP is the sum of the precisions at its hits divided by min(relevant, k); of an index
    id given twice, the first place counts. Queries with nothing relevant are left out; a query without a
    prediction scores 0.
    Raises ValueError for a query that `truth` lacks.
    """
    hits = find_hits(truth, predictions, k)
    return float(hits.average_precisions().mean()) if hits.queries else math.nan


def mean_precisions(
    truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], max_k: int = 100
) -> np.ndarray:
    """Mean precision at 1 … max_k, float64 of shape (max_k,); a list shorter than k counts as k long.

    Arguments and errors as in `mean_average_precision`.
    """
    hits = find_hits(truth, predictions, max_k)
    if not hits.queries:
        return np.full(max_k, np.nan)
    at_rank = np.bincount(hits.rank, minlength=max_k + 1)[1:]
    return np.cumsum(at_rank) / np.arange(1, max_k + 1) / len(hits.queries)


def first_hit_positions(
    truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], k: int = 100
) -> tuple[float, float]:
    """Mean and median over the queries of the rank of the first hit; k + 1 where the first k hold none.

    Arguments and errors as in `mean_average_precision`.
    """
    first = find_hits(truth, predictions, k).first_ranks()
    return (float(np.mean(first)), float(np.median(first))) if len(first) else (math.nan, math.nan)


def labelled_ids(truth: Mapping[str, Set]) -> list[str]:
    """The test ids with a truth that is not empty, in the order of `truth`."""
    return [test_id for test_id, answers in truth.items() if answers]


def _hit_ranks(relevant: Set[str], ranked: Sequence[str], k: int) -> list[int]:
    """Ascending ranks, from 1, at which relevant ids appear for the first time among the first k."""
    head = ranked[:k]
    # Many queries have no hit at all, and the set tells that much faster than a loop.
    if relevant.isdisjoint(head):
        return []
    ranks = [rank for rank, image in enumerate(head, 1) if image in relevant]
    places = {}
    for rank in ranks:
        places.setdefault(head[rank - 1], rank)
    return list(places.values())


def _refuse_unknown(truth: Mapping, predictions: Mapping) -> None:
    unknown = predictions.keys() - truth.keys()
    if unknown:
        raise ValueError(f"a prediction is for test id {min(unknown)}, which the truth does not have")
