"""The search that a recipe asks for: exact, or by an approximate index of faiss with its recall measured."""

import re

import faiss
import numpy as np

from landmark.devices import search_devices
from landmark.errors import UserError
from landmark.neighbours import similarity_of, top_k
from landmark.parallel import cores
from landmark.recipe import Recipe

_ROWS = 65_536  # that are put into an index at a time
_PER_CENTROID = 64  # images that an inverted list learns from, at the mean


class SearchIndex:
    """Vectors (N, D) of unit length to search in, float16 or float32, in memory or memory-mapped."""

    def __init__(self, vectors: np.ndarray, recipe: Recipe):
        self.vectors, self._settings, self._memory = vectors, recipe.search, recipe.process_gib
        self._devices = search_devices(recipe)
        self._approximate: faiss.Index | None = None

    def top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities (Q, k) float32 and rows (Q, k) int64 of the k nearest, as `neighbours.top_k`.

        An approximate search that finds fewer fills up with similarity -inf and row -1. The first one prints its
        recall, of queries that stand evenly among those asked for. Raises UserError for an index that faiss cannot
        make.
        """
        if self._settings.index == "exact":
            return self._exact(queries, k)
        k = min(k, len(self.vectors))
        if self._approximate is None:
            self._approximate = self._build()
            self._print_recall(queries, k)
        return self._approximate_top_k(queries, k)

    def _build(self) -> faiss.Index:
        settings, (count, dim) = self._settings, self.vectors.shape
        faiss.omp_set_num_threads(cores())
        try:
            index = faiss.index_factory(dim, settings.index, faiss.METRIC_INNER_PRODUCT)
            lists = int((re.search(r"IVF(\d+)", settings.index) or [0, 256])[1])
            sample = np.unique(
                np.linspace(0, count - 1, min(count, max(_PER_CENTROID * lists, 20_000))).astype(int)
            )
            index.train(np.ascontiguousarray(self.vectors[sample], np.float32))
            for start in range(0, count, _ROWS):
                index.add(np.ascontiguousarray(self.vectors[start : start + _ROWS], np.float32))
            if settings.parameters:
                faiss.ParameterSpace().set_index_parameters(index, settings.parameters)
        except RuntimeError as error:
            # faiss names the place in its source; what is wrong is the last part.
            words = str(error).rsplit("Error: ", 1)[-1].strip()
            raise UserError(f"search: faiss cannot search by {settings.index!r}: {words}") from None
        return index

    def _approximate_top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(len(self.vectors), k * self._settings.candidates)
        similarity = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        # The candidates' own vectors give the exact similarities.
        step = max(1, int(self._memory * 2**30 / 16 / (wanted + self.vectors.shape[1])))
        for start in range(0, len(queries), step):
            part = np.ascontiguousarray(queries[start : start + step], np.float32)
            _, found = self._approximate.search(part, wanted)
            exact = similarity_of(part, self.vectors, found)
            order = np.lexsort((found, -exact), axis=1)[:, :k]
            similarity[start : start + step] = np.take_along_axis(exact, order, axis=1)
            rows[start : start + step] = np.take_along_axis(found, order, axis=1)
        return similarity, rows

    def _print_recall(self, queries: np.ndarray, k: int) -> None:
        some = np.unique(np.linspace(0, len(queries) - 1, self._settings.recall_queries).astype(int))
        value = recall(self._approximate_top_k(queries[some], k)[1], self._exact(queries[some], k)[1])
        print(f"search: {self._settings.index} finds {value:.1%} of the {k} nearest, by {len(some)} queries")

    def _exact(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return top_k(queries, self.vectors, k, self._memory, self._devices)


def recall(found: np.ndarray, nearest: np.ndarray) -> float:
    """The share of the nearest rows (Q, k) that are among those found (Q, k)."""
    return float(np.mean([np.isin(true, rows).mean() for rows, true in zip(found, nearest, strict=True)]))
