"""The metrics of the Landmark 2019 challenges, as the scorer published with the data set defines them.

Source: tensorflow/models, research/delf/delf/python/datasets/google_landmarks_dataset/metrics.py. Where that
scorer fails for want of any test image with a non-empty truth, these functions return NaN.
"""

import math
from collections.abc import Mapping, Sequence, Set

import numpy as np


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
    _refuse_unknown(truth, predictions)
    for test_id, (_, score) in predictions.items():
        if math.isnan(score):
            raise ValueError(f"the score of test id {test_id} is NaN and cannot be ranked")
    counted = [test_id for test_id in predictions if truth[test_id] or not ignore_unlabelled]
    counted.sort(key=lambda test_id: (-predictions[test_id][1], test_id))
    correct = np.array([predictions[test_id][0] in truth[test_id] for test_id in counted], dtype=bool)
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    labelled = len(_labelled(truth))
    return float(precision[correct].sum() / labelled) if labelled else math.nan


def top1_accuracy(truth: Mapping[str, Set[int]], predictions: Mapping[str, tuple[int, float]]) -> float:
    """Share of the test images with a landmark for which one of their landmarks is predicted, at any score.

    Arguments and errors as in `global_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    labelled = _labelled(truth)
    right = sum(test_id in predictions and predictions[test_id][0] in labelled[test_id] for test_id in labelled)
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
    _refuse_unknown(truth, predictions)
    labelled = _labelled(truth)
    total = 0.0
    for query, relevant in labelled.items():
        ranks = _hit_ranks(relevant, predictions.get(query, ()), k)
        total += sum(hits / rank for hits, rank in enumerate(ranks, 1)) / min(len(relevant), k)
    return total / len(labelled) if labelled else math.nan


def mean_precisions(
    truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], max_k: int = 100
) -> np.ndarray:
    """Mean precision at 1 … max_k, float64 of shape (max_k,); a list shorter than k counts as k long.

    Arguments and errors as in `mean_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    labelled = _labelled(truth)
    hits = np.zeros(max_k)
    for query, relevant in labelled.items():
        for rank in _hit_ranks(relevant, predictions.get(query, ()), max_k):
            hits[rank - 1] += 1
    if not labelled:
        return np.full(max_k, np.nan)
    return np.cumsum(hits) / np.arange(1, max_k + 1) / len(labelled)


def first_hit_positions(
    truth: Mapping[str, Set[str]], predictions: Mapping[str, Sequence[str]], k: int = 100
) -> tuple[float, float]:
    """Mean and median over the queries of the rank of the first hit; k + 1 where the first k hold none.

    Arguments and errors as in `mean_average_precision`.
    """
    _refuse_unknown(truth, predictions)
    first = [
        next(iter(_hit_ranks(relevant, predictions.get(query, ()), k)), k + 1)
        for query, relevant in _labelled(truth).items()
    ]
    return (float(np.mean(first)), float(np.median(first))) if first else (math.nan, math.nan)


def _hit_ranks(relevant: Set[str], ranked: Sequence[str], k: int) -> list[int]:
    """Ascending ranks, from 1, at which relevant ids appear for the first time among the first k."""
    head = ranked[:k]
    ranks = []
    # Most queries have few hits or none: the intersection, much faster than a loop, leaves little to do.
    found = relevant & set(head)
    for rank, image in enumerate(head if found else (), 1):
        if image in found:
            ranks.append(rank)
            found.remove(image)
    return ranks


def _labelled(truth: Mapping[str, Set]) -> dict[str, Set]:
    return {test_id: answers for test_id, answers in truth.items() if answers}


def _refuse_unknown(truth: Mapping, predictions: Mapping) -> None:
    unknown = predictions.keys() - truth.keys()
    if unknown:
        raise ValueError(f"a prediction is for test id {min(unknown)}, which the truth does not have")
