"""Exact search by blocks against brute force."""

import numpy as np
import pytest

from landmark.errors import UserError
from landmark.neighbours import same_label, similarity_of, top_k, without_itself
from landmark.recipe import load_recipe
from landmark.search import SearchIndex, recall


def unit(rng, shape):
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("memory_gib", [1.0, 40e-6])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_blocks_give_the_brute_force_result(memory_gib, dtype):
    rng = np.random.default_rng(1)
    queries, database = unit(rng, (37, 16)).astype(dtype), unit(rng, (501, 16)).astype(dtype)
    similarity, rows = top_k(queries, database, 10, memory_gib)
    full = queries.astype(np.float32) @ database.astype(np.float32).T
    expected = np.argsort(-full, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarity, np.take_along_axis(full, expected, axis=1), atol=1e-5)


def test_a_file_and_a_part_of_it_give_what_memory_gives(tmp_path):
    vectors = unit(np.random.default_rng(3), (60, 16)).astype(np.float16)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    for part in (slice(0, 60), slice(40, 60)):
        expected = top_k(vectors[part], vectors, 5, 1.0)
        for queries, database in ((mapped[part], mapped), (vectors[part], mapped[:]), (mapped[part], vectors)):
            for memory_gib in (1.0, 40e-6):
                np.testing.assert_array_equal(top_k(queries, database, 5, memory_gib)[1], expected[1])
    labels = np.arange(60) % 4
    whole = same_label(top_k(vectors, vectors, 31, 1.0)[1], labels, range(60), 5)
    part = same_label(top_k(mapped[40:], mapped, 31, 1.0)[1], labels, range(40, 60), 5)
    np.testing.assert_array_equal(part, whole[40:])


@pytest.mark.parametrize("devices", [("cpu",), ("cpu:0", "cpu:0")])
@pytest.mark.parametrize("memory_gib", [1.0, 40e-6])
@pytest.mark.parametrize("k", [3, 150])
def test_of_equal_rows_the_lower_ones_are_found_also_at_the_cut(devices, memory_gib, k):
    # Whole numbers, whose products are exact: 400 rows, but only some dozens of similarities.
    rng = np.random.default_rng(5)
    database = rng.integers(-1, 2, (400, 6)).astype(np.float32)
    queries = rng.integers(-1, 2, (300, 6)).astype(np.float32)
    expected = np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top_k(queries, database, k, memory_gib, devices)[1], expected)


def approximate(vectors, **search):
    changes = [f"search.{name}={value}" for name, value in search.items()]
    return SearchIndex(vectors, load_recipe("sample", ["device=cpu", *changes]))


@pytest.mark.parametrize(
    ("index", "parameters"), [("IVF16,Flat", "nprobe=8"), ("IVF16,PQ8", "nprobe=16"), ("HNSW16", "efSearch=64")]
)
def test_an_approximate_index_tells_its_recall_and_gives_exact_similarities(capsys, index, parameters):
    rng = np.random.default_rng(6)
    centres = unit(rng, (16, 32))
    vectors = unit(rng, (2000, 32)) + 2 * centres[rng.integers(0, 16, 2000)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    queries = vectors[:100]
    similarity, rows = approximate(vectors, index=index, parameters=parameters, candidates=4).top_k(queries, 10)
    exact = top_k(queries, vectors, 10, 1.0)[1]
    found = recall(rows, exact)
    assert (
        found > 0.8 and f"{index} finds {found:.1%} of the 10 nearest, by 100 queries" in capsys.readouterr().out
    )
    full = queries.astype(np.float32) @ vectors.astype(np.float32).T
    np.testing.assert_allclose(similarity, np.take_along_axis(full, rows, axis=1), atol=1e-5)
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_a_list_that_an_approximate_search_cannot_fill_ends_in_none():
    vectors = np.repeat(np.eye(4, dtype=np.float32), [2, 9, 9, 9], axis=0)
    similarity, rows = approximate(vectors, index='"IVF4,Flat"', parameters="nprobe=1").top_k(vectors[:1], 5)
    assert rows.tolist() == [[0, 1, -1, -1, -1]] and similarity[0].tolist() == [1, 1, -np.inf, -np.inf, -np.inf]


def test_an_index_that_faiss_does_not_know_is_an_error_that_names_it():
    with pytest.raises(UserError, match="search: faiss cannot search by 'IFV4'"):
        approximate(np.eye(4, dtype=np.float32), index="IFV4").top_k(np.eye(4, dtype=np.float32), 2)


def test_recall_is_the_share_of_the_nearest_that_was_found():
    assert recall(np.array([[1, 2, 9], [4, -1, -1]]), np.array([[2, 1, 3], [4, 5, 6]])) == pytest.approx(0.5)


def test_similarities_of_given_rows_and_the_neighbours_without_the_image_itself():
    vectors = unit(np.random.default_rng(7), (9, 4))
    rows = np.array([[3, 8, -1], [0, 0, 1]])
    similarity = similarity_of(vectors[:2], vectors, rows)
    np.testing.assert_allclose(similarity[1], vectors[1] @ vectors[[0, 0, 1]].T, atol=1e-6)
    assert similarity[0, 2] == -np.inf
    found = without_itself(np.array([[3, 2, 1], [3, 2, 1]]), np.array([[5, 0, 7], [4, 6, 8]]), np.array([0, 1]), 2)
    assert found[1].tolist() == [[5, 7], [4, 6]] and found[0].tolist() == [[3, 1], [3, 2]]


def test_torch_finds_what_faiss_finds():
    vectors = unit(np.random.default_rng(4), (300, 16))
    by_faiss = top_k(vectors[:50], vectors, 7, 40e-6)
    by_torch = top_k(vectors[:50], vectors, 7, 40e-6, devices=["cpu:0", "cpu:0"])
    np.testing.assert_array_equal(by_torch[1], by_faiss[1])
    np.testing.assert_allclose(by_torch[0], by_faiss[0], atol=1e-6)


def test_euclidean_order_is_the_same_for_unit_vectors():
    rng = np.random.default_rng(2)
    queries, database = unit(rng, (5, 8)), unit(rng, (50, 8))
    distance = ((queries[:, None] - database[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(top_k(queries, database, 50, 1.0)[1], np.argsort(distance, axis=1))


def test_k_is_cut_to_the_database_and_ties_go_to_the_lower_row():
    database = np.array([[0, 1], [1, 0], [1, 0]], np.float32)
    similarity, rows = top_k(database[1:2], database, 9, 1.0)
    assert rows.tolist() == [[1, 2, 0]] and similarity.tolist() == [[1, 1, 0]]
