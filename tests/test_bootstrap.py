"""The bootstrap: hand-worked draws, scikit-learn's weighted average precision, pairing and coverage."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from landmark import bootstrap, metrics
from landmark.submission import Solution, SubmissionError

USAGE = {"a": "Public", "b": "Public", "c": "Private", "d": "Private"}
RECOGNITION = Solution({"a": {1}, "b": set(), "c": {3}, "d": {4}}, USAGE, frozenset({"e"}))
RECOGNIZED = {"a": (1, 0.9), "b": (1, 0.8), "c": (3, 0.7), "e": (1, 2.0)}
RETRIEVAL = Solution({"a": {"x"}, "b": set(), "c": {"x", "y"}, "d": {"z"}}, USAGE, frozenset({"e"}))
RETRIEVED = {"a": ["x"], "b": ["x"], "c": ["w", "y"], "e": ["x"]}


@pytest.fixture
def drawn(monkeypatch):
    """A function that makes the bootstrap draw the rows given, once per resample."""

    def fix(*rows):
        monkeypatch.setattr(bootstrap, "draws", lambda *_: iter(np.array(r, dtype=np.int64) for r in rows))

    return fix


def solution_of(truth, rng):
    return Solution(truth, {i: str(rng.choice(["Public", "Private"])) for i in truth}, frozenset())


def random_recognition(rng, images):
    """Half of the images labelled, predictions for most, all scores different."""
    truth = {f"{i:05d}": {int(rng.integers(3))} if rng.random() < 0.5 else set() for i in range(images)}
    scores = rng.permutation(images)
    return truth, {i: (int(rng.integers(3)), float(s)) for i, s in zip(truth, scores, strict=True) if s % 9}


def test_gap_of_hand_worked_draws(drawn):
    # Weights of a, b, c, d: 2, 1, 1, 0, then 0, 3, 0, 1, then 0, 4, 0, 0.
    drawn([0, 0, 1, 2], [1, 1, 1, 3], [1, 1, 1, 1])
    samples = bootstrap.recognition_samples(RECOGNITION, RECOGNIZED, resamples=3)
    # All: a is right at precision 2/2 and counts twice, c at precision 3/4, and three drawn images are labelled.
    np.testing.assert_allclose(samples["all"], [(2 * 1 + 3 / 4) / 3, 0, np.nan])
    np.testing.assert_allclose(samples["Public"], [1, np.nan, np.nan])
    np.testing.assert_allclose(samples["Private"], [1, 0, np.nan])


def test_map_of_hand_worked_draws(drawn):
    # Rows of the labelled queries a, c, d, with AP 1, 1/4, 0.
    drawn([0, 0, 1], [2], [])
    samples = bootstrap.retrieval_samples(RETRIEVAL, RETRIEVED, resamples=3)
    np.testing.assert_allclose(samples["all"], [(2 + 1 / 4) / 3, 0, np.nan])
    np.testing.assert_allclose(samples["Public"], [1, np.nan, np.nan])
    np.testing.assert_allclose(samples["Private"], [1 / 4, 0, np.nan])


def test_every_image_once_gives_the_score_itself(drawn):
    rng = np.random.default_rng(5)
    truth, predictions = random_recognition(rng, 200)
    drawn(np.arange(200))
    samples = bootstrap.recognition_samples(solution_of(truth, rng), predictions, resamples=1)
    assert samples["all"][0] == pytest.approx(metrics.global_average_precision(truth, predictions), abs=1e-12)


def test_gap_is_that_of_scikit_learn_with_weights():
    rng = np.random.default_rng(6)
    truth, predictions = random_recognition(rng, 300)
    solution = solution_of(truth, rng)
    samples = bootstrap.recognition_samples(solution, predictions, resamples=20, seed=1)
    rows = {test_id: row for row, test_id in enumerate(truth)}
    for sample, drawn_rows in enumerate(bootstrap.draws(300, 300, 20, 1)):
        weights = np.bincount(drawn_rows, minlength=300)
        for subset, values in samples.items():
            within = [i for i in truth if subset in ("all", solution.usage[i])]
            ids = [i for i in within if i in predictions]
            right = np.array([predictions[i][0] in truth[i] for i in ids])
            weight = weights[[rows[i] for i in ids]]
            expected = average_precision_score(right, [predictions[i][1] for i in ids], sample_weight=weight)
            # scikit-learn divides by the right predictions, not knowing of labelled images that have none.
            labelled = weights[[rows[i] for i in within if truth[i]]].sum()
            assert values[sample] == pytest.approx(expected * weight[right].sum() / labelled, abs=1e-12)


def test_the_draws_do_not_depend_on_the_predictions(monkeypatch):
    seen, draws = [], bootstrap.draws
    monkeypatch.setattr(bootstrap, "draws", lambda *given: (seen.append(r) or r for r in draws(*given)))
    for predictions in (RECOGNIZED, {}):
        bootstrap.recognition_samples(RECOGNITION, predictions, resamples=5)
    for predictions in (RETRIEVED, {"c": ["x"]}):
        bootstrap.retrieval_samples(RETRIEVAL, predictions, resamples=5)
    for start in (0, 10):
        for one, other in zip(seen[start : start + 5], seen[start + 5 : start + 10], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_paired_difference_is_told_from_noise_where_single_intervals_overlap():
    rng = np.random.default_rng(7)
    truth = {f"q{i}": {"x"} for i in range(400)}
    solution = solution_of(truth, rng)
    worse = {q: ["x"] if rng.random() < 0.5 else ["w"] for q in truth}
    better = worse | {f"q{i}": ["x"] for i in range(20)}
    a, b = (bootstrap.retrieval_samples(solution, p)["all"] for p in (worse, better))
    assert bootstrap.interval(b)[0] < bootstrap.interval(a)[1]
    assert bootstrap.interval(b - a)[0] > 0
    np.testing.assert_array_equal(a, bootstrap.retrieval_samples(solution, worse)["all"])
    assert (a != bootstrap.retrieval_samples(solution, worse, seed=1)["all"]).any()


def test_drawing_the_first_rows_alone_is_drawing_from_all():
    counts = np.array([np.bincount(rows, minlength=3) for rows in bootstrap.draws(30, 3, 20_000, 3)])
    assert counts.shape[1] == 3
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.05)
    # A row's share is binomial, and the shares of two rows are those of one multinomial.
    np.testing.assert_allclose(np.cov(counts.T), np.eye(3) - 1 / 30, atol=0.06)


def test_the_interval_covers_a_known_score_as_often_as_it_says():
    rng = np.random.default_rng(8)
    truth = {f"q{i:03d}": {"x"} for i in range(200)}
    solution, covered = solution_of(truth, rng), 0
    for trial in range(100):
        found = {q: ["x"] if rng.random() < 0.7 else ["w"] for q in truth}
        low, high = bootstrap.interval(bootstrap.retrieval_samples(solution, found, 200, seed=trial)["all"])
        covered += low <= 0.7 <= high
    # Binomial with 0.95: below 87 or at all 100 is rarer than 1 in 100; percentile intervals are a bit short.
    assert 86 <= covered <= 100


def test_interval():
    assert bootstrap.interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert bootstrap.interval(np.arange(101.0), level=0.5) == pytest.approx((25, 75))
    assert bootstrap.interval(np.array([np.nan, 1.0, np.nan])) == (1.0, 1.0)
    assert bootstrap.interval(np.full(3, np.nan)) is None


@pytest.mark.parametrize("truth", [{}, {"a": set()}])
def test_without_any_truth_every_sample_is_nan(truth):
    solution = Solution(truth, dict.fromkeys(truth, "Public"), frozenset())
    for samples in (bootstrap.retrieval_samples(solution, {}, 4), bootstrap.recognition_samples(solution, {}, 4)):
        assert sorted(samples) == ["Private", "Public", "all"]
        assert all(values.shape == (4,) and np.isnan(values).all() for values in samples.values())


def test_a_prediction_for_an_unknown_test_id_is_an_error():
    with pytest.raises(SubmissionError, match="stranger"):
        bootstrap.retrieval_samples(RETRIEVAL, {"stranger": ["x"]})
    with pytest.raises(SubmissionError, match="stranger"):
        bootstrap.recognition_samples(RECOGNITION, {"stranger": (1, 0.5)})
