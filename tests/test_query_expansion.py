"""Query expansion against its definition, descriptor by descriptor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.query_expansion import expand


def unit(rng, shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def obvious(own, database, rows, similarity, alpha):
    """The definition, row by row."""
    expanded = []
    for vector, near, cosines in zip(own.astype(float), rows, similarity, strict=True):
        total = vector.copy()
        for row, cosine in zip(near, cosines, strict=True):
            if row >= 0:
                total += max(float(cosine), 0.0) ** alpha * database[row].astype(float)
        expanded.append(total / np.linalg.norm(total) if total.any() else vector)
    return np.array(expanded)


@pytest.fixture(scope="module")
def float16_file(tmp_path_factory):
    """Forty unit vectors in a float16 file."""
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    np.save(path, unit(np.random.default_rng(0), (40, 8)).astype(np.float16))
    return np.load(path, mmap_mode="r")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 7),
    k=st.integers(0, 6),
    alpha=st.sampled_from([0.0, 0.5, 3.0]),
    in_file=st.booleans(),
)
def test_random_cases_equal_the_definition(float16_file, seed, queries, k, alpha, in_file):
    rng = np.random.default_rng(seed)
    database = float16_file if in_file else unit(rng, (40, 8)).astype(np.float32)
    own = unit(rng, (queries, 8)).astype(database.dtype)
    rows = np.array([rng.permutation(40)[:k] for _ in range(queries)]).reshape(queries, k)
    # Any images and not the nearest, so that about half of the cosines are negative.
    similarity = np.take_along_axis((own.astype(np.float32) @ database.astype(np.float32).T), rows, axis=1)
    none = rng.random(rows.shape) < 0.2
    rows[none], similarity[none] = -1, -np.inf
    expanded = expand(own, database, rows, similarity, alpha)
    assert expanded.dtype == np.float32
    np.testing.assert_allclose(expanded, obvious(own, database, rows, similarity, alpha), atol=2e-5)


def test_by_hand_alpha_0_averages_and_alpha_3_weighs_with_the_cube_of_the_cosine():
    own, database = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8], [-0.6, 0.8]])
    rows, similarity = np.array([[0, 1]]), np.array([[0.6, -0.6]], np.float32)
    average = np.array([1.0, 1.6]) / np.hypot(1.0, 1.6)
    np.testing.assert_allclose(expand(own, database, rows, similarity, 0.0), [average], rtol=1e-6)
    weighted = np.array([1 + 0.6**3 * 0.6, 0.6**3 * 0.8])
    weighted /= np.linalg.norm(weighted)
    np.testing.assert_allclose(expand(own, database, rows, similarity, 3.0), [weighted], rtol=1e-6)


def test_where_the_sum_is_zero_the_descriptor_stays_as_it_was():
    own = np.array([[0.6, 0.8], [0.6, 0.8]], np.float16)
    rows, similarity = np.array([[0], [1]]), np.array([[-1], [0]], np.float32)
    database = np.array([[-0.6, -0.8], [-0.8, 0.6]], np.float16)
    expanded = expand(own, database, rows, similarity, 0.0)
    np.testing.assert_array_equal(expanded[0], own[0].astype(np.float32))
    np.testing.assert_allclose(expanded[1], np.array([-0.2, 1.4]) / np.hypot(0.2, 1.4), atol=1e-3)


def test_the_descriptors_given_stay_what_they_are():
    own = np.eye(2, dtype=np.float32)
    expand(own, np.eye(2, dtype=np.float32)[::-1], np.array([[0], [1]]), np.ones((2, 1), np.float32), 0.0)
    np.testing.assert_array_equal(own, np.eye(2))
