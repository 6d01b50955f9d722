"""Discriminative re-ranking, by hand and against an obvious reference."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_without_the_sort_step_insertion_follows_the_last_positive():
    assert by_hand(sort=False) == [0, 1, 2, 3]
    assert by_hand(sort=False, ranking=np.array([[0, 1, 2]])) == [0, 1, 3]


def test_images_and_queries_without_label_match_nothing():
    unlabelled = np.array([-1, 7, -1, 7, 7, 7, 7])
    assert by_hand(query_labels=np.array([-1]), index_labels=unlabelled) == [0, 1, 2, 3]


def test_a_list_with_fewer_results_has_room_for_what_is_inserted():
    assert by_hand(ranking=np.array([[0, 1, -1, -1]])) == [1, 3, 5, 4]
    assert by_hand(ranking=np.array([[0, 1, -1, -1]]), insert_above=None) == [1, 0, -1, -1]


def test_a_query_of_a_label_that_no_index_image_has_stays_as_it_was():
    assert by_hand(query_labels=np.array([99])) == [0, 1, 2, 3]


def obvious(ranking, query_labels, query_scores, index_labels, index_scores, insert_above, sort):
    """The definition, image by image."""
    lists = []
    for q, row in enumerate(ranking.tolist()):
        retrieved = [i for i in row if i >= 0]
        label = query_labels[q]
        positive = [i for i in retrieved if index_labels[i] == label and label >= 0]
        front = positive
        if positive and not sort:
            front = retrieved[: retrieved.index(positive[-1]) + 1]
        extra = [
            i
            for i in range(len(index_labels))
            if i not in retrieved
            and index_labels[i] == label
            and label >= 0
            and insert_above is not None
            and query_scores[q] + index_scores[i] > insert_above
        ]
        extra.sort(key=lambda i: (-index_scores[i], i))
        new = front + extra + [i for i in retrieved if i not in front]
        lists.append((new + [-1] * len(row))[: len(row)])
    return lists


@st.composite
def cases(draw):
    images, width, queries = draw(st.integers(1, 30)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    # Few labels and scores, for many ties; -1 is no label. Tenths, whose sums are not what they look like.
    labels, scores = st.integers(-1, 3), st.integers(-3, 9).map(lambda tenth: tenth / 10)
    order = st.permutations(range(images)).map(lambda rows: (rows + [-1] * width)[:width])
    ranking = [
        row[: draw(st.integers(0, width))] for row in draw(st.lists(order, min_size=queries, max_size=queries))
    ]
    return {
        "ranking": np.array([row + [-1] * (width - len(row)) for row in ranking]),
        "query_labels": np.array([draw(labels) for _ in range(queries)]),
        "query_scores": np.array([draw(scores) for _ in range(queries)]),
        "index_labels": np.array([draw(labels) for _ in range(images)]),
        "index_scores": np.array([draw(scores) for _ in range(images)]),
        "insert_above": draw(st.sampled_from([None, 0.6, 0.0])),
        "sort": draw(st.booleans()),
    }


@settings(max_examples=300, deadline=None, derandomize=True)
@given(case=cases())
def test_random_cases_equal_the_definition(case):
    assert discriminative_rerank(**case).tolist() == obvious(**case)


def test_blocks_of_queries_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    case = {
        "ranking": np.stack([rng.permutation(60)[:8] for _ in range(50)]),
        "query_labels": rng.integers(0, 6, 50),
        "query_scores": rng.uniform(0, 1, 50),
        "index_labels": rng.integers(0, 5, 60),
        "index_scores": rng.integers(0, 5, 60) / 5,
        "insert_above": 0.6,
        "sort": True,
    }
    monkeypatch.setattr("landmark.reranking._QUERIES", 7)
    assert discriminative_rerank(**case).tolist() == obvious(**case)
