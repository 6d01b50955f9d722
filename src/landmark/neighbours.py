"""Nearest neighbours by blocks, so that memory is a setting and not the data's size squared."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from queue import SimpleQueue

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from landmark.parallel import cores

_QUERIES = 256  # that one thread searches at a time

# Searches a block: queries (Q, D), k -> similarities and rows (Q, k), best first.
_Block = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def top_k(
    queries: np.ndarray, database: np.ndarray, k: int, memory_gib: float, devices: Sequence[str] = ("cpu",)
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `database` nearest to each query, best first; exact, and ties go to the lower row.

    queries: (Q, D), database: (N, D), rows of unit length (then the order by inner product is that by Euclidean
    distance), float16 or float32, in memory or memory-mapped. Returns similarities (Q, k) float32 and rows
    (Q, k) int64, with k cut to N. Besides its inputs and results it holds at most about `memory_gib`.
    devices: the CPU, where faiss searches on every core, or GPUs, where torch does; several share the queries and
    each holds the block.
    """
    k = min(k, len(database))
    dim = database.shape[1]
    floats = int(memory_gib * 2**30 / 4)
    database_rows = max(k, floats // 2 // dim)
    # A query takes its vector and, while merging, 2k values, row numbers and sort keys: 24 k floats in all.
    query_rows = max(1, floats // 2 // (dim + 24 * k))
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(database), database_rows):
        block = searches = None  # the last one goes before the next one comes
        block = _read(database, slice(start, start + database_rows))
        searches = [_torch_block(block, device) for device in devices if device != "cpu"]
        searches = searches or [_faiss_block(block)] * cores()
        for begin in range(0, len(queries), query_rows):
            part = slice(begin, begin + query_rows)
            found, where = _shared(_read(queries, part), searches, min(k, len(block)), len(block))
            where += start
            if start:
                found, where = _merge((similarity[part], found), (rows[part], where), k)
            similarity[part, : found.shape[1]], rows[part, : found.shape[1]] = found, where
    return similarity, rows


def _read(vectors: np.ndarray, rows: slice) -> np.ndarray:
    """Rows as float32. A memory-mapped file is mapped anew, so that its pages do not stay with the process."""
    # A view of part of a file has the whole file's offset, and is read as it is.
    if isinstance(vectors, np.memmap) and isinstance(vectors.base, mmap):
        vectors = np.memmap(vectors.filename, vectors.dtype, "r", vectors.offset, vectors.shape)
    return np.ascontiguousarray(vectors[rows], np.float32)


def _faiss_block(block: np.ndarray) -> _Block:
    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss.omp_set_num_threads(1)
        return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)

    return search


def _torch_block(block: np.ndarray, device: str) -> _Block:
    import torch

    on_device = torch.from_numpy(block).to(device)
    # 2 GiB of similarities at a time.
    step = max(1, 2**29 // len(block))

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        parts = torch.from_numpy(queries).split(step)
        found = [torch.topk(part.to(device) @ on_device.T, k, dim=1) for part in parts]
        return tuple(torch.cat(side).cpu().numpy() for side in zip(*found, strict=True))

    return search


def _shared(queries: np.ndarray, searches: list[_Block], k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Search a block of `size` rows, the queries shared among `searches`, one thread for each."""
    free = SimpleQueue()
    for search in searches:
        free.put(search)

    def one(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        search = free.get()
        try:
            return _nearest(search, part, k, size)
        finally:
            free.put(search)

    # Each thread multiplies by itself: how a matrix is cut among the threads of one product shows in the last bit.
    parts = [queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES)]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(len(searches)) as pool:
        return tuple(np.concatenate(side) for side in zip(*pool.map(one, parts), strict=True))


def _nearest(search: _Block, queries: np.ndarray, k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of a block, ties by row, whichever of equal rows `search` itself prefers."""
    # One more than asked for shows whether equal rows lie on both sides of the cut.
    found, rows = search(queries, min(k + 1, size))
    tied = (found[:, 1:] == found[:, :-1]).any(axis=1)
    if tied.any():
        found[tied], rows[tied] = _in_order(found[tied], rows[tied])
    if k < size:
        cut = found[:, k - 1] == found[:, k]
        if cut.any():
            deeper = _nearest(search, queries[cut], min(2 * k, size), size)
            found[cut, :k], rows[cut, :k] = (side[:, :k] for side in deeper)
    return found[:, :k], rows[:, :k].astype(np.int64)


def _in_order(found: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -found), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _merge(
    found: tuple[np.ndarray, np.ndarray], rows: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    return tuple(side[:, :k] for side in _in_order(np.concatenate(found, axis=1), np.concatenate(rows, axis=1)))


def without_itself(
    similarity: np.ndarray, rows: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest but the image itself, where `own` (Q,) is its row, of k + 1 found (Q, k + 1).

    Of copies of one photograph, an image may not be among its own k + 1 nearest; then the last one goes.
    """
    # A stable sort sends the image itself, if it is there, behind the others.
    order = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)


def similarity_of(queries: np.ndarray, database: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products (Q, k) float32 of queries (Q, D) with rows (Q, k) of the database, -inf for a row of -1.

    Column by column, so that it holds Q x D numbers.
    """
    found = np.full(rows.shape, -np.inf, np.float32)
    queries = np.asarray(queries, np.float32)
    for place in range(rows.shape[1]):
        near = np.asarray(database[rows[:, place]], np.float32)
        found[:, place] = np.einsum("qd,qd->q", queries, near)
    found[rows < 0] = -np.inf
    return found


def same_label(found: np.ndarray, labels: np.ndarray, rows: range, limit: int) -> np.ndarray:
    """The at most `limit` nearest of its own label among the k nearest of each of the images `rows`, itself out.

    found: (len(rows), k + 1) nearest rows, best first, -1 for none. labels: (N,). Returns (len(rows), limit)
    int32, nearest first, filled up with -1.
    """
    own = np.arange(rows.start, rows.stop)[:, None]
    others = found != own
    # Of copies of one photograph, an image may not be among its own k + 1 nearest.
    same = others & (found >= 0) & (labels[found] == labels[own]) & (np.cumsum(others, axis=1) < found.shape[1])
    place = np.cumsum(same, axis=1) - 1
    same &= place < limit
    kept = np.full((len(found), limit), -1, np.int32)
    kept[np.nonzero(same)[0], place[same]] = found[same]
    return kept
