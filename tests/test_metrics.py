"""The metrics: cases with known answers, and the definitions written out the slow way on random cases."""

import math

import numpy as np
import pytest

from landmark import metrics

LANDMARKS = {"01": {0, 12}, "02": {100, 200, 300}, "03": {1}, "04": set(), "05": set()}
RECOGNIZED = {"02": (0, 0.01), "03": (1, 10.0), "04": (150, 15.0)}
RELEVANT = {"01": {"10", "20"}, "02": {"10"}, "03": {"30", "40", "50"}, "04": {"30"}}
RETRIEVED = {"02": ["00", "10"], "03": ["40"], "04": ["30", "40"]}

MANY = [f"right{i}" for i in range(150)]
WRONG = [f"wrong{i}" for i in range(150)]


def slow_gap(truth, predictions, ignore_unlabelled=False):
    """Precision at every correct prediction, each counted from the whole list of those ranked no lower."""
    kept = {i: p for i, p in predictions.items() if truth[i] or not ignore_unlabelled}

    def no_lower(other, test_id):
        (_, score_a), (_, score_b) = kept[other], kept[test_id]
        return score_a > score_b or (score_a == score_b and other <= test_id)

    total = 0.0
    for test_id in kept:
        if kept[test_id][0] in truth[test_id]:
            above = [other for other in kept if no_lower(other, test_id)]
            total += sum(kept[other][0] in truth[other] for other in above) / len(above)
    return total / sum(bool(landmarks) for landmarks in truth.values())


def slow_precision(relevant, ranked, rank):
    """Share of the first `rank` places that hold a relevant id not seen before."""
    return len(relevant & set(ranked[:rank])) / rank


def is_hit(relevant, ranked, rank):
    return rank <= len(ranked) and ranked[rank - 1] in relevant and ranked[rank - 1] not in ranked[: rank - 1]


def slow_average_precision(relevant, ranked, k):
    hits = [rank for rank in range(1, k + 1) if is_hit(relevant, ranked, rank)]
    return sum(slow_precision(relevant, ranked, rank) for rank in hits) / min(len(relevant), k)


def random_recognition(rng):
    """Up to 12 test ids, a third without landmark, a third without prediction, and many equal scores."""
    ids = [f"{i:02d}" for i in rng.permutation(12)[: rng.integers(1, 13)]]
    truth = {i: set(rng.integers(0, 4, rng.integers(0, 3)).tolist()) for i in ids}
    truth[ids[0]] = {0}
    predictions = {i: (int(rng.integers(0, 4)), float(rng.integers(-2, 3))) for i in ids if rng.random() < 2 / 3}
    return truth, predictions


def random_retrieval(rng):
    """Up to 6 queries against 15 index ids: duplicates, empty lists, empty truths, lists longer than k."""
    queries = [f"q{i}" for i in range(rng.integers(1, 7))]
    truth = {q: {f"{i}" for i in rng.integers(0, 15, rng.integers(0, 9))} for q in queries}
    truth[queries[0]] = {"3"}
    predictions = {
        q: [f"{i}" for i in rng.integers(0, 15, rng.integers(0, 12))] for q in queries if rng.random() < 0.8
    }
    return truth, predictions


def test_gap_counts_predictions_for_images_without_landmark_as_wrong():
    assert metrics.global_average_precision(LANDMARKS, RECOGNIZED) == pytest.approx(1 / 6)


def test_gap_can_leave_out_images_without_landmark():
    gap = metrics.global_average_precision(LANDMARKS, RECOGNIZED, ignore_unlabelled=True)
    assert gap == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ({"b": (1, 0.5), "a": (2, 0.5)}, 0.25),  # a tie goes by test id, not by the order of the predictions
        ({"b": (2, 0.5), "a": (1, 0.5)}, 0.5),
        ({"a": (1, -5.0), "b": (2, -1.0)}, 0.25),  # a negative score is a prediction like any other
        ({"a": (1, 0.1), "b": (1, 0.2)}, 1.0),
        ({}, 0.0),
    ],
)
def test_gap_of_two_images(predictions, expected):
    assert metrics.global_average_precision({"a": {1}, "b": {1}}, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("ignore", [False, True])
def test_gap_agrees_with_the_definition_on_random_cases(ignore):
    rng = np.random.default_rng(20)
    for _ in range(300):
        truth, predictions = random_recognition(rng)
        ours = metrics.global_average_precision(truth, predictions, ignore_unlabelled=ignore)
        assert ours == pytest.approx(slow_gap(truth, predictions, ignore), abs=1e-12)


def test_gap_does_not_depend_on_the_scale_of_the_scores():
    truth, predictions = random_recognition(np.random.default_rng(4))
    shifted = {i: (label, np.float32(7 * score - 3)) for i, (label, score) in predictions.items()}
    assert metrics.global_average_precision(truth, predictions) == metrics.global_average_precision(truth, shifted)


def test_gap_refuses_a_score_that_has_no_rank():
    with pytest.raises(ValueError, match="b is NaN"):
        metrics.global_average_precision({"a": {1}, "b": {1}}, {"a": (1, 0.5), "b": (1, math.nan)})


def test_top1_accuracy():
    assert metrics.top1_accuracy(LANDMARKS, RECOGNIZED) == pytest.approx(1 / 3)


def test_top1_accuracy_counts_images_with_a_landmark_only():
    rng = np.random.default_rng(21)
    for _ in range(100):
        truth, predictions = random_recognition(rng)
        right = [predictions.get(i, (-1, 0))[0] in landmarks for i, landmarks in truth.items() if landmarks]
        assert metrics.top1_accuracy(truth, predictions) == pytest.approx(np.mean(right))


def test_map():
    assert metrics.mean_average_precision(RELEVANT, RETRIEVED) == pytest.approx(0.458333, abs=1e-6)


def test_map_at_1():
    assert metrics.mean_average_precision(RELEVANT, RETRIEVED, k=1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("relevant", "ranked", "expected"),
    [
        ({"x", "y"}, ["x", "x", "y"], 0.833333),  # the duplicate keeps its rank and counts once
        ({"M", "P"}, [*WRONG[:4], "M", *WRONG[5:102], "P"], 0.1),  # hits at ranks 5 and 103
        (set(MANY), MANY[:100], 1.0),
        (set(MANY), MANY[:50] + WRONG[:50], 0.5),
        ({"x"}, [], 0.0),
    ],
)
def test_map_of_one_query(relevant, ranked, expected):
    assert metrics.mean_average_precision({"q": relevant}, {"q": ranked}) == pytest.approx(expected, abs=1e-6)


def test_map_leaves_out_queries_with_nothing_relevant():
    truth = {"a": {"x"}, "b": set()}
    assert metrics.mean_average_precision(truth, {"a": ["x"], "b": ["x"]}) == 1.0


@pytest.mark.parametrize("k", [1, 3, 8, 100])
def test_retrieval_metrics_agree_with_the_definitions_on_random_cases(k):
    rng = np.random.default_rng(22)
    for _ in range(150):
        truth, predictions = random_retrieval(rng)
        pairs = [(relevant, predictions.get(q, [])) for q, relevant in truth.items() if relevant]

        ap = [slow_average_precision(relevant, ranked, k) for relevant, ranked in pairs]
        assert metrics.mean_average_precision(truth, predictions, k) == pytest.approx(np.mean(ap), abs=1e-12)

        precisions = [[slow_precision(*pair, rank) for rank in range(1, k + 1)] for pair in pairs]
        ours = metrics.mean_precisions(truth, predictions, k)
        np.testing.assert_allclose(ours, np.mean(precisions, axis=0), atol=1e-12)

        first = [next((rank for rank in range(1, k + 1) if is_hit(*pair, rank)), k + 1) for pair in pairs]
        assert metrics.first_hit_positions(truth, predictions, k) == (
            pytest.approx(np.mean(first)),
            np.median(first),
        )


def test_mean_precisions():
    np.testing.assert_allclose(metrics.mean_precisions(RELEVANT, RETRIEVED, max_k=2), [0.5, 0.375])


def test_first_hit_is_one_past_the_list_where_there_is_none():
    assert metrics.first_hit_positions(RELEVANT, RETRIEVED) == (26.25, 1.5)
    assert metrics.first_hit_positions(RELEVANT, RETRIEVED, k=1) == (1.5, 1.5)


def test_without_any_truth_the_metrics_are_nan():
    for truth in ({}, {"a": set()}):
        assert math.isnan(metrics.global_average_precision(truth, dict.fromkeys(truth, (1, 0.5))))
        assert math.isnan(metrics.top1_accuracy(truth, dict.fromkeys(truth, (1, 0.5))))
        assert math.isnan(metrics.mean_average_precision(truth, dict.fromkeys(truth, ["x"])))
        assert np.isnan(metrics.mean_precisions(truth, {}, max_k=3)).all()
        assert np.isnan(metrics.first_hit_positions(truth, {})).all()


@pytest.mark.parametrize(
    ("metric", "prediction"),
    [
        (metrics.global_average_precision, (1, 0.5)),
        (metrics.top1_accuracy, (1, 0.5)),
        (metrics.mean_average_precision, ["x"]),
        (metrics.mean_precisions, ["x"]),
        (metrics.first_hit_positions, ["x"]),
    ],
)
def test_a_prediction_for_an_unknown_test_id_is_an_error(metric, prediction):
    with pytest.raises(ValueError, match="stranger"):
        metric({"a": {1}}, {"stranger": prediction})
