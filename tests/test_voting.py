"""Soft voting, the inlier term and the distractor ban."""

import numpy as np
import pytest

from landmark.gallery import Gallery
from landmark.recognition import predict, verified
from landmark.retrieval_settings import Recognition
from landmark.voting import ban_frequent, inlier_term, similarity_term, soft_labels, vote


def test_the_slides_example():
    """Similarities 0.85, 0.75, 0.60, inlier terms 1.00, 1.00, 0.50; the last two share a label: 2.85 to 1.85."""
    similarity, inliers = np.array([[0.85, 0.75, 0.60]]), np.array([[1.00, 1.00, 0.50]])
    labels = np.array([[7, 9, 9]])
    winner, score = vote(labels, similarity + inliers)
    assert winner.tolist() == [9] and score[0] == pytest.approx(2.85)
    assert (similarity + inliers)[0, 0] == pytest.approx(1.85)


def test_equal_sums_go_to_the_nearer_neighbour():
    winner, _ = vote(np.array([[5, 2, 5]]), np.array([[0.25, 0.75, 0.5]]))
    assert winner.tolist() == [5]


def test_negative_terms_count_too():
    winner, score = vote(np.array([[1, 2, 2]]), np.array([[-0.1, -0.2, -0.3]]))
    assert winner.tolist() == [1] and score[0] == pytest.approx(-0.1)


def test_terms():
    a, b = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    assert similarity_term(a @ b) == pytest.approx(1 - ((a - b) ** 2).sum())
    np.testing.assert_allclose(inlier_term(np.array([0, 35, 70, 500]), 70), [0, 0.5, 1, 1])
    np.testing.assert_allclose(inlier_term(np.array([0, 7, 8, 17, 27, 99]), 27, floor=7), [0, 0, 0.05, 0.5, 1, 1])


def test_soft_labels_are_the_mean_over_k():
    label, score = soft_labels(np.array([[0.8, 0.6, 0.0]]), np.array([[4, 4, 8]]))
    assert label.tolist() == [4]
    assert score[0] == pytest.approx(((2 * 0.8 - 1) + (2 * 0.6 - 1)) / 3)


def random_recognition(seed, k):
    """Neighbours found of 200 test images in a gallery of 40, and what verification would count."""
    rng = np.random.default_rng(seed)
    gallery = Gallery(np.zeros((40, 0)), rng.integers(0, 6, 40), np.arange(40))
    found = np.empty((200, k), [("row", np.int64), ("similarity", np.float32)])
    found["row"] = np.stack([rng.permutation(40)[:k] for _ in range(200)])
    # Tenths, for ties.
    found["similarity"] = -np.sort(-rng.integers(0, 11, (200, k)) / 10, axis=1)
    return found, gallery, rng.choice([0, 3, 20, 70, 90], (200, 40))


def obvious(found, gallery, inliers, settings):
    """Every pair verified, image by image: label, score."""
    answers = []
    for q, neighbours in enumerate(found):
        terms = [
            (
                float(np.float32(2) * s - np.float32(1))
                + min(settings.inlier_cap, inliers[q, row]) / settings.inlier_cap,
                row,
            )
            for row, s in neighbours
        ]
        if settings.refine:
            terms.sort(key=lambda pair: -pair[0])
        sums = {}
        for term, row in terms[: settings.vote_neighbours]:
            label = int(gallery.labels[row])
            sums[label] = sums.get(label, 0.0) + term
        answers.append(max(sums.items(), key=lambda item: item[1]))
    return answers


@pytest.mark.parametrize("refine", [None, 20])
@pytest.mark.parametrize("seed", range(5))
def test_verifying_what_can_change_the_result_gives_the_result_of_verifying_all(seed, refine):
    settings = Recognition(refine=refine)
    found, gallery, inliers = random_recognition(seed, refine or 3)
    asked = []

    def count(query, rows):
        asked.extend(zip(query.tolist(), rows.tolist(), strict=True))
        return inliers[query, rows]

    counted = verified(found, gallery, settings, count)
    labels, scores, _ = predict(found, counted, gallery, settings)
    expected_labels, expected_scores = zip(*obvious(found, gallery, inliers, settings), strict=True)
    assert labels.tolist() == list(expected_labels)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-12)
    assert len(set(asked)) == len(asked) == (counted >= 0).sum() < 0.8 * counted.size
    everything = verified(found, gallery, settings.model_copy(update={"verify": "all"}), count)
    np.testing.assert_array_equal(everything, np.take_along_axis(inliers, found["row"], axis=1))
    np.testing.assert_array_equal(predict(found, everything, gallery, settings)[1], scores)


def test_without_verification_the_inlier_term_is_nought():
    settings = Recognition(verify="none", inlier_floor=7)
    found, gallery, _ = random_recognition(0, 3)
    labels, scores, _ = predict(found, verified(found, gallery, settings, None), gallery, settings)
    expected = vote(gallery.labels[found["row"]], similarity_term(found["similarity"]))
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_allclose(scores, expected[1])


def test_a_neighbour_that_was_not_found_has_no_say():
    settings = Recognition()
    found, gallery, inliers = random_recognition(0, 3)
    found["row"][0, 2], found["similarity"][0, 2] = -1, -np.inf
    counted = verified(found, gallery, settings, lambda query, rows: inliers[query, rows])
    label, score, _ = predict(found[:1], counted[:1], gallery, settings)
    two = obvious(found[:1, :2], gallery, inliers, settings)[0]
    assert (label[0], score[0]) == (two[0], pytest.approx(two[1]))


def test_the_ban_moves_frequent_labels_behind_all_others():
    labels = np.array([1, 1, 1, 2, 2, 3])
    scores = np.array([9.0, 8.0, 7.0, 0.5, 0.4, -0.2])
    banned = ban_frequent(labels, scores, above=2)
    assert banned.tolist() == [-3, -3, -3, 0.5, 0.4, -0.2]
    assert ban_frequent(labels, scores, above=3).tolist() == scores.tolist()
