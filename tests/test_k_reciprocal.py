"""k-reciprocal re-ranking against the authors' algorithm, whose matrices hold every pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.k_reciprocal import k_reciprocal_rerank


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lists(vectors, database, k, itself=False):
    """The k nearest in the database (itself: not the image of the same row) and their cosines."""
    cosine = vectors @ database.T
    if itself:
        np.fill_diagonal(cosine, -np.inf)
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosine, rows, axis=1)


def whole_lists(queries, index):
    """Lists of all images: the arguments of `k_reciprocal_rerank` by name."""
    ranking, similarity = lists(queries, index, len(index))
    neighbours, neighbour_similarity = lists(index, index, len(index) - 1, itself=True)
    return {
        "ranking": ranking,
        "similarity": similarity,
        "neighbours": neighbours,
        "neighbour_similarity": neighbour_similarity,
    }


def cut(case, retrieved, known):
    """Lists of so many images."""
    width = {"ranking": retrieved, "similarity": retrieved, "neighbours": known, "neighbour_similarity": known}
    return {name: values[:, : width[name]] for name, values in case.items()}


def authors(initial_rank, original, k1, k2, weight):
    """Distances of the images to the query by the authors' `re_ranking`, for a pool of one query and the index.

    initial_rank: each member's nearest, itself first; the query is member 0. original: (1 + N, 1 + N) distances.
    Nothing is rounded to half precision, as the authors do.
    """

    def reciprocal(image, k):
        forward = initial_rank[image][: k + 1]
        return [near for near in forward if image in initial_rank[near][: k + 1]]

    encoding = np.zeros_like(original)
    for image in range(len(original)):
        near = reciprocal(image, k1)
        expanded = set(near)
        for candidate in near:
            of_candidate = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(set(of_candidate) & set(near)) > 2 / 3 * len(of_candidate):
                expanded |= set(of_candidate)
        expanded = sorted(expanded)
        gaussian = np.exp(-original[image, expanded])
        encoding[image, expanded] = gaussian / gaussian.sum()
    encoding = np.array([encoding[initial_rank[image][:k2]].mean(axis=0) for image in range(len(original))])
    minima = np.minimum(encoding[0], encoding).sum(axis=1)
    jaccard = 1 - minima / (2 - minima)
    return ((1 - weight) * jaccard + weight * original[0])[1:]


def assert_ascending(distance, order):
    """`order` has every image once, and its distances ascend but for rounding."""
    assert sorted(order) == list(range(len(distance)))
    assert (np.diff(distance[order]) > -1e-9).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(2, 40),
    k1=st.integers(1, 12),
    k2=st.integers(1, 6),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_lists_of_all_images_give_the_order_of_the_authors_algorithm(seed, images, k1, k2, weight):
    rng = np.random.default_rng(seed)
    k1, k2 = min(k1, images - 1), min(k2, images)
    centres = rng.normal(size=(5, 4))
    index, queries = (unit(centres[rng.integers(0, 5, n)] + 0.6 * rng.normal(size=(n, 4))) for n in (images, 3))
    reranked = k_reciprocal_rerank(**whole_lists(queries, index), k1=k1, k2=k2, weight=weight)
    for query, order in zip(queries, reranked, strict=True):
        pool = np.vstack([query, index])
        # Halves of squared distances, where the authors divide by each image's greatest.
        original = ((pool[:, None] - pool[None]) ** 2).sum(axis=2) / 2
        initial_rank = np.argsort(original, axis=1, kind="stable")
        assert_ascending(authors(initial_rank, original, k1, k2, weight), order)


def pool_of_lists(case, query):
    """What cut lists tell of a query and the index, for `authors`: initial_rank and original."""
    retrieved = {int(row): c for row, c in zip(case["ranking"][query], case["similarity"][query], strict=True)}
    retrieved.pop(-1, None)
    known = [
        {int(row): c for row, c in zip(rows, cosines, strict=True) if row >= 0}
        for rows, cosines in zip(case["neighbours"], case["neighbour_similarity"], strict=True)
    ]
    depth, images = case["neighbours"].shape[1], len(known)
    initial_rank, original = [[0, *(row + 1 for row in retrieved)]], np.zeros((images + 1, images + 1))
    for row, near in enumerate(known):
        members = [(-c, other + 1) for other, c in near.items()]
        members += [(-retrieved[row], 0)] if row in retrieved else []
        initial_rank.append([row + 1, *(member for _, member in sorted(members)[:depth])])
        original[row + 1, 0] = original[0, row + 1] = 1 - retrieved.get(row, min(retrieved.values()))
        for other in set(range(images)) - {row}:
            last = min([*near.values(), *known[other].values()], default=1)
            original[row + 1, other + 1] = 1 - near.get(other, known[other].get(row, last))
    return initial_rank, original


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), k1=st.integers(1, 8), k2=st.integers(1, 6), unfilled=st.booleans())
def test_cut_lists_give_the_authors_order_of_what_the_lists_tell(seed, k1, k2, unfilled):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 4))
    index, queries = (unit(centres[rng.integers(0, 5, n)] + 0.6 * rng.normal(size=(n, 4))) for n in (40, 2))
    case = cut(whole_lists(queries, index), rng.integers(2, 13), 8)
    if unfilled:
        for rows, cosines in (("ranking", "similarity"), ("neighbours", "neighbour_similarity")):
            filled = rng.integers(1, case[rows].shape[1] + 1, (len(case[rows]), 1))
            none = np.arange(case[rows].shape[1]) >= filled
            # What stands beside a -1 says nothing.
            case[rows][none], case[cosines][none] = -1, 0.5
    reranked = k_reciprocal_rerank(**case, k1=k1, k2=k2, weight=0.3)
    for query, order in enumerate(reranked):
        retrieved = case["ranking"][query][case["ranking"][query] >= 0]
        order, rest = order[: len(retrieved)], order[len(retrieved) :]
        assert sorted(order) == sorted(retrieved) and (rest == -1).all()
        distance = authors(*pool_of_lists(case, query), k1, k2, 0.3)
        assert (np.diff(distance[order]) > -1e-9).all()


def planted(rng, landmarks=8, views=12, dim=16, noise=0.35):
    """Index and queries in clusters, and their landmarks."""
    centres = unit(rng.normal(size=(landmarks, dim)))
    # A direction that some images of all landmarks share, as a sky or a fence would.
    common = unit(rng.normal(size=(1, dim)))
    labels = np.repeat(np.arange(landmarks), views)
    index = centres[labels] + noise * rng.normal(size=(len(labels), dim)) / np.sqrt(dim) * 3
    index += rng.choice([0, 0.8], (len(labels), 1)) * common
    queries = centres + noise * rng.normal(size=centres.shape) / np.sqrt(dim) * 3 + 0.8 * common
    return unit(index), labels, unit(queries), np.arange(landmarks)


def test_matches_that_the_query_misses_come_to_the_front():
    index, labels, queries, query_labels = planted(np.random.default_rng(1))
    case = whole_lists(queries, index)
    reranked = k_reciprocal_rerank(**case, k1=10, k2=4, weight=0.3)

    def mean_rank(ranking):
        return np.nonzero(labels[ranking] == query_labels[:, None])[1].reshape(len(queries), -1).mean(axis=1)

    before, after = mean_rank(case["ranking"]), mean_rank(reranked)
    assert (after <= before).all() and after.mean() < 0.7 * before.mean()


def test_a_list_that_ends_in_none_keeps_its_length_and_is_ranked_as_without_the_rest():
    rng = np.random.default_rng(2)
    queries, index = unit(rng.normal(size=(3, 6))), unit(rng.normal(size=(30, 6)))
    case = cut(whole_lists(queries, index), 12, 8)
    short = cut(case, 7, 8)
    case["ranking"][0, 7:], case["similarity"][0, 7:] = -1, -np.inf
    case["ranking"][1], case["similarity"][1] = -1, -np.inf
    reranked = k_reciprocal_rerank(**case, k1=5, k2=3, weight=0.3)
    expected = k_reciprocal_rerank(**short, k1=5, k2=3, weight=0.3)
    assert reranked[0].tolist() == [*expected[0], *[-1] * 5]
    assert sorted(reranked[0, :7]) == sorted(case["ranking"][0, :7])
    assert reranked[1].tolist() == [-1] * 12


def test_no_query_changes_what_another_gets():
    rng = np.random.default_rng(4)
    queries, index = unit(rng.normal(size=(6, 5))), unit(rng.normal(size=(50, 5)))
    # Twice the same query: each of them alone is among the other images' neighbours.
    queries[3] = queries[0]
    case = cut(whole_lists(queries, index), 20, 9)
    together = k_reciprocal_rerank(**case, k1=8, k2=4, weight=0.3)
    for query in range(6):
        one = case | {name: case[name][[query]] for name in ("ranking", "similarity")}
        np.testing.assert_array_equal(k_reciprocal_rerank(**one, k1=8, k2=4, weight=0.3)[0], together[query])


@pytest.mark.parametrize(("k1", "k2"), [(6, 2), (5, 7)])
def test_lists_shorter_than_k_are_an_error(k1, k2):
    rng = np.random.default_rng(5)
    case = cut(whole_lists(unit(rng.normal(size=(1, 4))), unit(rng.normal(size=(20, 4)))), 10, 5)
    with pytest.raises(ValueError, match="the lists have 5"):
        k_reciprocal_rerank(**case, k1=k1, k2=k2, weight=0.3)
    k_reciprocal_rerank(**case, k1=5, k2=6, weight=0.3)
