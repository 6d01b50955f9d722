"""How far a score could be off by the chance of which test images there are: the bootstrap.

The test set is drawn anew, image by image with replacement, and scored again, for all, Public and Private images
as they happen to be drawn. The draws depend on the solution and the seed alone, so that the difference of two
submissions' samples is a paired comparison. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993),
chapters 6 and 13 (percentile intervals).
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from landmark import metrics
from landmark.submission import MAX_IMAGES, SUBSETS, Solution, counted, subset_masks


def retrieval_samples(
    solution: Solution, predictions: Mapping[str, Sequence[str]], resamples: int = 1000, seed: int = 2019
) -> dict[str, np.ndarray]:
    """mAP@100 of each drawn test set, by subset ("all", "Public", "Private"): (resamples,) float64 each.

    NaN where no query with a truth was drawn, so all of them for a subset that has none. Predictions for ignored
    ids are passed over. Raises SubmissionError for a test id that the solution lacks.
    """
    hits = metrics.find_hits(solution.truth, counted(solution, predictions), MAX_IMAGES)
    precisions, masks = hits.average_precisions(), subset_masks(solution, hits.queries)
    # The weights of a draw times these columns: Public and Private sums of AP, then numbers of queries.
    columns = [precisions * masks[s] for s in SUBSETS] + [masks[s].astype(np.float64) for s in SUBSETS]
    columns = np.stack(columns, axis=1)
    sums = np.empty((resamples, 2, len(SUBSETS)))
    for row, drawn in enumerate(draws(len(solution.truth), len(hits.queries), resamples, seed)):
        weights = np.bincount(drawn, minlength=len(hits.queries)).astype(np.float64)
        sums[row] = (weights @ columns).reshape(2, -1)
    with np.errstate(invalid="ignore"):
        samples = {"all": np.divide(*sums.sum(axis=2).T)}
        return samples | {subset: np.divide(*sums[:, :, at].T) for at, subset in enumerate(SUBSETS)}


def recognition_samples(
    solution: Solution, predictions: Mapping[str, tuple[int, float]], resamples: int = 1000, seed: int = 2019
) -> dict[str, np.ndarray]:
    """GAP of each drawn test set; otherwise as `retrieval_samples`.

    An image drawn w times counts w times, its copies sharing one rank, as in scikit-learn's
    average_precision_score with sample_weight; the divisor is the drawn images that show a landmark.
    """
    ranked, correct = metrics.rank_predictions(solution.truth, counted(solution, predictions))
    row_of_id = {test_id: row for row, test_id in enumerate(solution.truth)}
    ranked_rows = np.array([row_of_id[test_id] for test_id in ranked], dtype=np.int64)
    labelled = metrics.labelled_ids(solution.truth)
    labelled_rows = np.array([row_of_id[test_id] for test_id in labelled], dtype=np.int64)
    labelled_masks = subset_masks(solution, labelled)
    subsets = {}
    for subset, mask in subset_masks(solution, ranked).items():
        right = np.flatnonzero(correct[mask])
        # What ranks below the last right prediction has no influence.
        rows = ranked_rows[mask][: right[-1] + 1 if len(right) else 0]
        subsets[subset] = rows, right, labelled_rows[labelled_masks[subset]]
    samples = {subset: np.full(resamples, np.nan) for subset in subsets}
    images = len(solution.truth)
    for sample, drawn in enumerate(draws(images, images, resamples, seed)):
        # 32 bits halve what the gathers below read.
        weights = np.bincount(drawn, minlength=images).astype(np.int32)
        for subset, (rows, right, labelled_rows) in subsets.items():
            samples[subset][sample] = _weighted_gap(weights[rows], right, int(weights[labelled_rows].sum()))
    return samples


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The percentiles between which the share `level` of the samples (N,) lies; None where every one is NaN.

    NaN samples, drawn without any labelled image, are left out.
    """
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draws(images: int, first: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """For each resample the rows below `first` among `images` rows drawn with replacement: (any,) int64.

    How many of the draws fall there is binomial, and which ones is uniform: the others need not be drawn.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        count = rng.binomial(images, first / images) if images else 0
        yield rng.integers(max(first, 1), size=count)


def _weighted_gap(weights: np.ndarray, right: np.ndarray, labelled: int) -> float:
    """GAP of ranked predictions (N,) that count `weights` times, of which those at the places `right` are right.

    `labelled` is the weight of all images that show a landmark; NaN where it is 0.
    """
    if not labelled:
        return math.nan
    above = weights.cumsum(dtype=np.int64)[right]
    weights = weights[right]
    # Where nothing was drawn so far, above is 0 and so is the weight.
    return float((weights * (weights.cumsum(dtype=np.int64) / np.maximum(above, 1))).sum() / labelled)
