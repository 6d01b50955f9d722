"""Exact nearest neighbours by blocks, so that memory is a setting and not the data's size squared."""

from concurrent.futures import ThreadPoolExecutor
from mmap import mmap

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from landmark.parallel import cores

_QUERIES = 1024  # that one thread searches at a time


def top_k(
    queries: np.ndarray, database: np.ndarray, k: int, memory_gib: float, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `database` nearest to each query, best first.

    queries: (Q, D), database: (N, D), rows of unit length (then the order by inner product is that by Euclidean
    distance), float16 or float32, in memory or memory-mapped. Returns similarities (Q, k) float32 and rows
    (Q, k) int64, with k cut to N; on a CPU ties go to the lower row. Besides its inputs and results it holds at
    most about `memory_gib`. On a `device` other than the CPU torch searches, which then holds the block there;
    which of equal rows are among the k nearest is then not defined.
    """
    k = min(k, len(database))
    dim = database.shape[1]
    floats = int(memory_gib * 2**30 / 4)
    database_rows = max(k, floats // 2 // dim)
    # A query takes its vector and, while merging, 2k values, row numbers and sort keys: 24 k floats in all.
    query_rows = max(1, floats // 2 // (dim + 24 * k))
    search = _faiss_top_k if device == "cpu" else _torch_top_k
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(database), database_rows):
        block = None  # the last one goes before the next one comes
        block = _read(database, slice(start, start + database_rows))
        for begin in range(0, len(queries), query_rows):
            part = slice(begin, begin + query_rows)
            found, where = search(_read(queries, part), block, min(k, len(block)), device)
            merged = np.concatenate([similarity[part], found], axis=1)
            merged_rows = np.concatenate([rows[part], where + start], axis=1)
            order = np.lexsort((merged_rows, -merged), axis=1)[:, :k]
            similarity[part] = np.take_along_axis(merged, order, axis=1)
            rows[part] = np.take_along_axis(merged_rows, order, axis=1)
    return similarity, rows


def _read(vectors: np.ndarray, rows: slice) -> np.ndarray:
    """Rows as float32. A memory-mapped file is mapped anew, so that its pages do not stay with the process."""
    # A view of part of a file has the whole file's offset, and is read as it is.
    if isinstance(vectors, np.memmap) and isinstance(vectors.base, mmap):
        vectors = np.memmap(vectors.filename, vectors.dtype, "r", vectors.offset, vectors.shape)
    return np.ascontiguousarray(vectors[rows], np.float32)


def _faiss_top_k(query: np.ndarray, block: np.ndarray, k: int, _device: str) -> tuple[np.ndarray, np.ndarray]:
    def search(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        faiss.omp_set_num_threads(1)
        return faiss.knn(part, block, k, metric=faiss.METRIC_INNER_PRODUCT)

    # Each thread multiplies by itself: how a matrix is cut among the threads of one product shows in the last bit.
    parts = [query[start : start + _QUERIES] for start in range(0, len(query), _QUERIES)]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        return tuple(np.concatenate(side) for side in zip(*pool.map(search, parts), strict=True))


def _torch_top_k(query: np.ndarray, block: np.ndarray, k: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    import torch

    on_device = torch.from_numpy(block).to(device)
    # 2 GiB of similarities at a time.
    step = max(1, 2**29 // len(block))
    found = [torch.topk(part.to(device) @ on_device.T, k, dim=1) for part in torch.from_numpy(query).split(step)]
    return tuple(torch.cat(side).cpu().numpy() for side in zip(*found, strict=True))


def same_label_neighbours(
    vectors: np.ndarray,
    labels: np.ndarray,
    rows: range,
    k: int,
    limit: int,
    memory_gib: float,
    device: str = "cpu",
) -> np.ndarray:
    """The at most `limit` nearest of its own label among the k nearest of each of the images `rows`, itself out.

    vectors: (N, D) of unit length, labels: (N,). Returns (len(rows), limit) int32 rows of `vectors`, nearest
    first, filled up with -1.
    """
    _, found = top_k(vectors[rows.start : rows.stop], vectors, k + 1, memory_gib, device)
    own = np.arange(rows.start, rows.stop)[:, None]
    others = found != own
    # Of copies of one photograph, an image may not be among its own k + 1 nearest.
    same = others & (labels[found] == labels[own]) & (np.cumsum(others, axis=1) <= k)
    place = np.cumsum(same, axis=1) - 1
    same &= place < limit
    kept = np.full((len(found), limit), -1, np.int32)
    kept[np.nonzero(same)[0], place[same]] = found[same]
    return kept
