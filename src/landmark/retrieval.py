"""Retrieval: the nearest index images, and what re-ranks them, one after the other as the recipe says."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from landmark.gallery import Gallery
from landmark.neighbours import similarity_of, without_itself
from landmark.parts import PartFiles
from landmark.recipe import Recipe
from landmark.reranking import discriminative_rerank
from landmark.search import SearchIndex
from landmark.voting import soft_labels

# At 2019's size each search reads its database from disk, so there are not many of them.
_QUERIES = 16_384
_NEIGHBOUR = np.dtype([("row", np.int32), ("similarity", np.float32)])
_LABEL = np.dtype([("label", np.int64), ("score", np.float64)])


@dataclass(frozen=True)
class Retrieval:
    """Queries (Q, D), the index they are searched in, and their ranking: (Q, R) rows, -1 behind the last."""

    queries: np.ndarray
    index: SearchIndex
    ranking: np.ndarray


class Retriever:
    """Searches and re-ranks with a recipe's settings; each stage is an array in `files`."""

    def __init__(self, recipe: Recipe, files: PartFiles, open_gallery: Callable[[], Gallery]):
        self._recipe, self._settings, self._files = recipe, recipe.retrieval, files
        self._open_gallery = open_gallery

    def search(self, queries: np.ndarray, index: SearchIndex, name: str = "search") -> Retrieval:
        found = self._neighbours(name, queries, index, self._settings.top)
        return Retrieval(queries, index, found["row"].astype(np.int64))

    def rerank(self, retrieval: Retrieval) -> Retrieval:
        """What the recipe's `rerank` makes of a ranking."""
        ways = {
            "dqe": self._dqe,
            "aqe": self._aqe,
            "alpha_qe": self._alpha_qe,
            "dba": self._dba,
            "k_reciprocal": self._k_reciprocal,
            "diffusion": self._diffusion,
        }
        for place, way in enumerate(self._settings.rerank, 1):
            retrieval = ways[way](f"{place}_{way}", retrieval)
        return retrieval

    def _dqe(self, name: str, retrieval: Retrieval) -> Retrieval:
        gallery = self._open_gallery()
        voters = SearchIndex(gallery.vectors, self._recipe)
        labels = [
            self._labels(f"{name}_{side}", vectors, voters, gallery)
            for side, vectors in (("test", retrieval.queries), ("index", retrieval.index.vectors))
        ]
        (test_labels, test_scores), (index_labels, index_scores) = labels
        ranking = discriminative_rerank(
            retrieval.ranking,
            test_labels,
            test_scores,
            index_labels,
            index_scores,
            self._settings.insert_above,
            self._settings.sort,
        )
        return replace(retrieval, ranking=ranking)

    def _aqe(self, name: str, retrieval: Retrieval) -> Retrieval:
        return self._expand_queries(name, retrieval, alpha=0.0)

    def _alpha_qe(self, name: str, retrieval: Retrieval) -> Retrieval:
        return self._expand_queries(name, retrieval, self._settings.expansion.alpha)

    def _expand_queries(self, name: str, retrieval: Retrieval, alpha: float) -> Retrieval:
        near = retrieval.ranking[:, : self._settings.expansion.neighbours]
        queries = self._expanded(name, retrieval.queries, retrieval.index.vectors, near, alpha)
        return self.search(queries, retrieval.index, f"{name}_search")

    def _dba(self, name: str, retrieval: Retrieval) -> Retrieval:
        vectors, settings = retrieval.index.vectors, self._settings.expansion
        near = self._index_neighbours(name, retrieval.index, settings.neighbours)
        augmented = self._expanded(f"{name}_index", vectors, vectors, near["row"], settings.alpha)
        return self.search(retrieval.queries, SearchIndex(augmented, self._recipe), f"{name}_search")

    def _k_reciprocal(self, name: str, retrieval: Retrieval) -> Retrieval:
        from landmark.k_reciprocal import k_reciprocal_rerank

        settings = self._settings.k_reciprocal
        # k2 counts the image itself.
        near = self._index_neighbours(name, retrieval.index, max(settings.k1, settings.k2 - 1))
        k1, k2 = min(settings.k1, near.shape[1]), min(settings.k2, near.shape[1] + 1)

        def rerank(ranking: np.ndarray, similarity: np.ndarray) -> np.ndarray:
            return k_reciprocal_rerank(
                ranking, similarity, near["row"], near["similarity"], k1, k2, settings.weight
            )

        return self._reordered(name, retrieval, rerank)

    def _diffusion(self, name: str, retrieval: Retrieval) -> Retrieval:
        from landmark.diffusion import Graph, diffuse

        settings = self._settings.diffusion
        near = self._index_neighbours(name, retrieval.index, settings.neighbours)

        @cache
        def graph() -> Graph:
            return Graph(near["row"], near["similarity"], near.shape[1], settings.gamma)

        def rerank(ranking: np.ndarray, similarity: np.ndarray) -> np.ndarray:
            return diffuse(ranking, similarity, graph(), settings.query_neighbours, settings.alpha)

        return self._reordered(name, retrieval, rerank)

    def _reordered(self, name: str, retrieval: Retrieval, rerank: Callable) -> Retrieval:
        """`rerank` of rankings and similarities (Q, R), some queries at a time."""

        def work(rows: range) -> np.ndarray:
            part = slice(rows.start, rows.stop)
            ranking = retrieval.ranking[part]
            return rerank(ranking, similarity_of(retrieval.queries[part], retrieval.index.vectors, ranking))

        ranking = self._files.array(name, len(retrieval.ranking), _QUERIES, work, f"05 {name}")
        return replace(retrieval, ranking=np.array(ranking))

    def _neighbours(self, name: str, queries: np.ndarray, index: SearchIndex, k: int) -> np.ndarray:
        def work(rows: range) -> np.ndarray:
            return _pack(*index.top_k(queries[rows.start : rows.stop], k))

        return self._files.array(name, len(queries), _QUERIES, work, f"05 {name}")

    def _index_neighbours(self, name: str, index: SearchIndex, k: int) -> np.ndarray:
        """The k images nearest to each image of the index but itself; all others where there are fewer."""
        k = min(k, len(index.vectors) - 1)

        def work(rows: range) -> np.ndarray:
            found = index.top_k(index.vectors[rows.start : rows.stop], k + 1)
            return _pack(*without_itself(*found, np.arange(rows.start, rows.stop), k))

        return self._files.array(
            f"{name}_neighbours", len(index.vectors), _QUERIES, work, f"05 {name}, neighbours"
        )

    def _expanded(
        self, name: str, own: np.ndarray, database: np.ndarray, near: np.ndarray, alpha: float
    ) -> np.ndarray:
        from landmark.query_expansion import expand

        def work(rows: range) -> np.ndarray:
            part = slice(rows.start, rows.stop)
            similarity = similarity_of(own[part], database, near[part])
            return expand(own[part], database, near[part], similarity, alpha).astype(np.float16)

        return self._files.array(name, len(own), _QUERIES, work, f"05 {name}")

    def _labels(
        self, name: str, vectors: np.ndarray, voters: SearchIndex, gallery: Gallery
    ) -> tuple[np.ndarray, np.ndarray]:
        def work(rows: range) -> np.ndarray:
            cosine, near = voters.top_k(vectors[rows.start : rows.stop], self._settings.vote_neighbours)
            made = np.empty(len(near), _LABEL)
            made["label"], made["score"] = soft_labels(cosine, gallery.labels_of(near))
            return made

        made = self._files.array(name, len(vectors), _QUERIES, work, f"05 {name}")
        return made["label"], made["score"]


def _pack(similarity: np.ndarray, rows: np.ndarray) -> np.ndarray:
    made = np.empty(rows.shape, _NEIGHBOUR)
    made["row"], made["similarity"] = rows, similarity
    return made
