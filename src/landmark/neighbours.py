"""Exact nearest neighbours by blocks, so that memory is a setting and not the data's size squared."""

import faiss
import numpy as np


def top_k(queries: np.ndarray, database: np.ndarray, k: int, memory_gib: float) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `database` nearest to each query, best first.

    queries: (Q, D), database: (N, D), rows of unit length (then the order by inner product is that by Euclidean
    distance), float16 or float32, in memory or memory-mapped. Returns similarities (Q, k) float32 and rows
    (Q, k) int64, with k cut to N; ties go to the lower row. Besides its inputs and results it holds at most
    about `memory_gib`.
    """
    k = min(k, len(database))
    dim = database.shape[1]
    floats = int(memory_gib * 2**30 / 4)
    database_rows = max(k, floats // 2 // dim)
    # A query takes its vector and, twice while merging, k values and k row numbers of 8 bytes.
    query_rows = max(1, floats // 2 // (dim + 6 * k))
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(database), database_rows):
        block = np.ascontiguousarray(database[start : start + database_rows], np.float32)
        for begin in range(0, len(queries), query_rows):
            part = slice(begin, begin + query_rows)
            query = np.ascontiguousarray(queries[part], np.float32)
            found, where = faiss.knn(query, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            merged = np.concatenate([similarity[part], found], axis=1)
            merged_rows = np.concatenate([rows[part], where + start], axis=1)
            order = np.lexsort((merged_rows, -merged), axis=1)[:, :k]
            similarity[part] = np.take_along_axis(merged, order, axis=1)
            rows[part] = np.take_along_axis(merged_rows, order, axis=1)
    return similarity, rows
