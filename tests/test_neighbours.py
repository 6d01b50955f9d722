"""Exact search by blocks against brute force."""

import numpy as np
import pytest

from landmark.neighbours import same_label_neighbours, top_k


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
    whole = same_label_neighbours(vectors, labels, range(60), 30, 5, 1.0)
    np.testing.assert_array_equal(same_label_neighbours(mapped, labels, range(40, 60), 30, 5, 1.0), whole[40:])


def test_torch_finds_what_faiss_finds():
    vectors = unit(np.random.default_rng(4), (300, 16))
    by_faiss = top_k(vectors[:50], vectors, 7, 40e-6)
    by_torch = top_k(vectors[:50], vectors, 7, 40e-6, device="cpu:0")
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
