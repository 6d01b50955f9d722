"""Soft voting, the inlier term and the distractor ban."""

import numpy as np
import pytest

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
    gallery = np.eye(3, dtype=np.float32)
    query = np.array([[0.8, 0.6, 0.0]], np.float32)
    label, score = soft_labels(query, gallery, np.array([4, 4, 8]), 3, memory_gib=0.1)
    assert label.tolist() == [4]
    assert score[0] == pytest.approx(((2 * 0.8 - 1) + (2 * 0.6 - 1)) / 3, abs=1e-6)


def test_the_ban_moves_frequent_labels_behind_all_others():
    labels = np.array([1, 1, 1, 2, 2, 3])
    scores = np.array([9.0, 8.0, 7.0, 0.5, 0.4, -0.2])
    banned = ban_frequent(labels, scores, above=2)
    assert banned.tolist() == [-3, -3, -3, 0.5, 0.4, -0.2]
    assert ban_frequent(labels, scores, above=3).tolist() == scores.tolist()
