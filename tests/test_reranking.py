"""Discriminative re-ranking, by hand and against an obvious reference."""

import numpy as np
import pytest

from landmark.reranking import discriminative_rerank


def by_hand(**changes):
    case = {
        "ranking": np.array([[0, 1, 2, 3]]),
        "query_labels": np.array([7]),
        "query_scores": np.array([0.5]),
        "index_labels": np.array([1, 7, 1, 7, 7, 7, 7]),
        "index_scores": np.array([0.9, 0.9, 0.9, 0.9, 0.2, 0.4, 0.05]),
        "insert_above": 0.6,
    }
    return discriminative_rerank(**(case | changes))[0].tolist()


def test_sort_step_keeps_the_order_inside_both_groups():
    assert by_hand(insert_above=None) == [1, 3, 0, 2]


def test_insert_step_follows_the_positives_best_first_above_the_threshold_and_cut():
    # Of 4, 5, 6 only 5 (0.9) and 4 (0.7) pass 0.6 with the query's 0.5; the list stays four long.
    assert by_hand() == [1, 3, 5, 4]
    assert by_hand(ranking=np.array([[0, 1, 2]])) == [1, 3, 5]
    assert by_hand(insert_above=0.8) == [1, 3, 5, 0]


def test_a_query_of_a_label_that_no_index_image_has_stays_as_it_was():
    assert by_hand(query_labels=np.array([99])) == [0, 1, 2, 3]


def obvious(ranking, query_labels, query_scores, index_labels, index_scores, insert_above):
    lists = []
    for q, retrieved in enumerate(ranking.tolist()):
        positive = [i for i in retrieved if index_labels[i] == query_labels[q]]
        negative = [i for i in retrieved if index_labels[i] != query_labels[q]]
        extra = [
            i
            for i in range(len(index_labels))
            if i not in retrieved
            and index_labels[i] == query_labels[q]
            and query_scores[q] + index_scores[i] > insert_above
        ]
        extra.sort(key=lambda i: (-index_scores[i], i))
        lists.append((positive + extra + negative)[: len(retrieved)])
    return lists


@pytest.mark.parametrize("seed", range(20))
def test_random_cases_equal_the_obvious_reference(seed):
    rng = np.random.default_rng(seed)
    queries, images, top = 12, rng.integers(5, 60), 5
    case = {
        "ranking": np.stack([rng.permutation(images)[:top] for _ in range(queries)]),
        "query_labels": rng.integers(0, 6, queries),
        "query_scores": rng.uniform(0, 1, queries),
        "index_labels": rng.integers(0, 5, images),
        "index_scores": rng.integers(0, 5, images) / 5,  # many ties
        "insert_above": 0.6,
    }
    assert [row.tolist() for row in discriminative_rerank(**case)] == obvious(**case)
