"""Diffusion against a dense solution, and on manifolds that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark import diffusion

DEFAULT = {"k": 4, "k_query": 3, "gamma": 3.0, "alpha": 0.99}


def diffuse(ranking, similarity, neighbours, neighbour_similarity, k, k_query, gamma, alpha):
    graph = diffusion.Graph(neighbours, neighbour_similarity, k, gamma)
    return diffusion.diffuse(ranking, similarity, graph, k_query, alpha)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lists_of(queries, index, retrieved, known):
    """The first four arguments of `diffuse` by name, lists of so many images."""
    of_query, of_index = queries @ index.T, index @ index.T
    np.fill_diagonal(of_index, -np.inf)
    ranking = np.argsort(-of_query, axis=1, kind="stable")[:, :retrieved]
    neighbours = np.argsort(-of_index, axis=1, kind="stable")[:, :known]
    return {
        "ranking": ranking,
        "similarity": np.take_along_axis(of_query, ranking, axis=1),
        "neighbours": neighbours,
        "neighbour_similarity": np.take_along_axis(of_index, neighbours, axis=1),
    }


def scores(case, query, k, k_query, gamma, alpha):
    """(I - alpha S)^-1 y of a query with every image in its list: (N,), image by image."""
    images = len(case["neighbours"])
    affinity, start = np.zeros((images, images)), np.zeros(images)
    for image in range(images):
        for other, cosine in zip(case["neighbours"][image], case["neighbour_similarity"][image], strict=True):
            if other >= 0 and image in case["neighbours"][other, :k] and other in case["neighbours"][image, :k]:
                affinity[image, other] = max(cosine, 0) ** gamma
    for image, cosine in list(zip(case["ranking"][query], case["similarity"][query], strict=True))[:k_query]:
        start[image] = max(cosine, 0) ** gamma
    degree = affinity.sum(axis=1)
    root = np.sqrt(np.where(degree > 0, degree, 1))
    return np.linalg.solve(np.eye(images) - alpha * affinity / root[:, None] / root, start)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(2, 30),
    k=st.integers(1, 8),
    k_query=st.integers(1, 10),
    gamma=st.sampled_from([1.0, 3.0]),
    alpha=st.sampled_from([0.1, 0.5, 0.99]),
    unfilled=st.booleans(),
)
def test_lists_of_all_images_give_the_order_of_the_dense_solution(
    seed, images, k, k_query, gamma, alpha, unfilled
):
    rng = np.random.default_rng(seed)
    k = min(k, images - 1)
    case = lists_of(unit(rng.normal(size=(3, 3))), unit(rng.normal(size=(images, 3))), images, images - 1)
    if unfilled:
        none = np.arange(images - 1) >= rng.integers(0, images, (images, 1))
        # What stands beside a -1 says nothing.
        case["neighbours"][none], case["neighbour_similarity"][none] = -1, 0.5
    reranked = diffuse(**case, k=k, k_query=k_query, gamma=gamma, alpha=alpha)
    for query, order in enumerate(reranked):
        assert sorted(order) == list(range(images))
        score = scores(case, query, k, k_query, gamma, alpha)[order]
        # What nothing reaches is zero; all else in order, however little it is.
        assert (np.diff(score) <= 1e-9 * score[:-1]).all()


def chain(images, step):
    """Unit vectors along a circle, so many degrees apart."""
    angle = np.deg2rad(step) * np.arange(images)
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(images)], axis=1)


@pytest.mark.parametrize("alpha", [0.99, 0.3])
def test_images_far_down_the_querys_manifold_come_before_unrelated_ones_that_are_nearer(alpha):
    # The chain goes from the query to its opposite side; the others are nearer than half of it.
    index = np.vstack([unit(np.array([[0.2, 0.0, 1.0]] * 3)), chain(36, 5)])
    case = lists_of(np.array([[1.0, -0.05, 0.0]]), index, len(index), 5)
    assert case["ranking"][0, 16:19].tolist() == [0, 1, 2]
    order = diffuse(**case, **DEFAULT | {"k": 2, "k_query": 1, "alpha": alpha})[0]
    assert set(order[:10]) == set(range(3, 13))
    assert order[10:].tolist() == [*range(13, 39), 0, 1, 2]


def test_edges_to_images_that_were_not_retrieved_count_in_the_degrees_alone():
    rng = np.random.default_rng(1)
    case = lists_of(unit(rng.normal(size=(1, 3))), unit(rng.normal(size=(25, 3))), 25, 24)
    retrieved = case["ranking"][0, :9].copy()
    affinity = np.zeros((25, 25))
    for image in range(25):
        for place, other in enumerate(case["neighbours"][image, :4]):
            if image in case["neighbours"][other, :4]:
                affinity[image, other] = max(case["neighbour_similarity"][image, place], 0) ** 3
    root = np.sqrt(affinity.sum(axis=1))
    normalised = (affinity / root[:, None] / root)[np.ix_(retrieved, retrieved)]
    start = np.where(np.arange(9) < 3, np.maximum(case["similarity"][0, :9], 0) ** 3, 0)
    expected = retrieved[np.argsort(-np.linalg.solve(np.eye(9) - 0.99 * normalised, start), kind="stable")]
    short = case | {name: case[name][:, :9] for name in ("ranking", "similarity")}
    assert diffuse(**short, **DEFAULT)[0].tolist() == expected.tolist()
    # The same where the list is cut by -1.
    case["ranking"][0, 9:], case["similarity"][0, 9:] = -1, -np.inf
    assert diffuse(**case, **DEFAULT)[0].tolist() == [*expected, *[-1] * 16]


def test_a_query_that_found_nothing_gets_nothing():
    case = lists_of(chain(2, 90), chain(8, 5), 8, 5)
    case["ranking"][0], case["similarity"][0] = -1, -np.inf
    reranked = diffuse(**case, **DEFAULT)
    assert reranked[0].tolist() == [-1] * 8 and sorted(reranked[1]) == list(range(8))


@pytest.mark.parametrize("why", ["no neighbour", "no mutual neighbour", "opposite"])
def test_without_edges_the_querys_nearest_stay_first_and_all_keep_their_order(why):
    case = lists_of(chain(1, 0), chain(6, 20), 6, 5)
    if why == "no neighbour":
        case["neighbours"][:], case["neighbour_similarity"][:] = -1, -np.inf
    elif why == "no mutual neighbour":
        case["neighbours"] = (np.arange(6)[:, None] + np.array([1, 2, 1, 2, 1])) % 6
        case["neighbours"][:, 2:] = -1
    else:
        case["neighbour_similarity"][:] = -0.5
    assert diffuse(**case, **DEFAULT)[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_lists_shorter_than_k_are_an_error():
    case = lists_of(chain(1, 0), chain(6, 20), 6, 3)
    with pytest.raises(ValueError, match="4 neighbours are asked for and the lists have 3"):
        diffuse(**case, **DEFAULT)
