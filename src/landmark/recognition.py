"""Recognition: the train images that vote on a test image, verified where that can change the result."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from landmark.competition import Competition
from landmark.devices import pick_device
from landmark.gallery import Gallery
from landmark.local_features import FeatureCache, LocalFeatures, find_features, open_extractor
from landmark.recipe import Recipe
from landmark.retrieval_settings import Recognition
from landmark.search import SearchIndex
from landmark.verification import count_inliers
from landmark.voting import inlier_term, leading_label, leading_pairs, similarity_term, verify_leaders, vote
from landmark.weights import delf_weights

_NEIGHBOUR = np.dtype([("row", np.int64), ("similarity", np.float32)])

# Inliers (M,) of pairs, given as the places (M,) of test images in a block and the gallery's rows (M,).
Count = Callable[[np.ndarray, np.ndarray], np.ndarray]


def nearest(index: SearchIndex, queries: np.ndarray, k: int) -> np.ndarray:
    """The k nearest train images of queries (Q, D): (Q, k) with fields row (-1: none) and similarity (cosine)."""
    similarity, rows = index.top_k(queries, k)
    found = np.empty(rows.shape, _NEIGHBOUR)
    found["row"], found["similarity"] = rows, similarity
    return found


def verified(found: np.ndarray, gallery: Gallery, settings: Recognition, count: Count) -> np.ndarray:
    """Inliers of neighbours `found` (Q, K), by the settings' `verify`: (Q, K) int32, -1 where not counted."""
    rows = found["row"]
    if settings.verify == "none":
        return np.full(rows.shape, -1, np.int32)

    def of_pairs(query: np.ndarray, place: np.ndarray) -> np.ndarray:
        there = rows[query, place] >= 0
        inliers = np.zeros(len(query), np.int64)
        inliers[there] = count(query[there], rows[query, place][there])
        return inliers

    if settings.verify == "all":
        return of_pairs(*np.nonzero(np.ones(rows.shape, bool))).reshape(rows.shape).astype(np.int32)
    if settings.refine:
        leaders = leading_pairs(settings.vote_neighbours)
    else:
        leaders = leading_label(gallery.labels_of(rows))
    similarity = similarity_term(found["similarity"])
    return verify_leaders(similarity, leaders, of_pairs, settings.inlier_cap, settings.inlier_floor).astype(
        np.int32
    )


def predict(
    found: np.ndarray, inliers: np.ndarray, gallery: Gallery, settings: Recognition
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (Q,), scores (Q,) float64, and the places (Q, K) of the neighbours that voted, of those found (Q, k).

    A neighbour's term is its similarity term plus its inlier term, 0 where inliers were not counted.
    """
    terms = similarity_term(found["similarity"]).astype(np.float64)
    terms += inlier_term(np.maximum(inliers, settings.inlier_floor), settings.inlier_cap, settings.inlier_floor)
    place = np.argsort(-terms, axis=1, kind="stable") if settings.refine else np.indices(terms.shape)[1]
    place = place[:, : settings.vote_neighbours]
    labels = gallery.labels_of(np.take_along_axis(found["row"], place, axis=1))
    return *vote(labels, np.take_along_axis(terms, place, axis=1)), place


class InlierCounter:
    """Counts inliers of test with train images; each image's local features are found once by a process."""

    def __init__(
        self, recipe: Recipe, competition: Competition, test_ids: list[str], train_ids: np.ndarray, folder: Path
    ):
        self._recipe = recipe
        extractor = None

        def find(key: int) -> LocalFeatures:
            split, image = ("test", test_ids[-1 - key]) if key < 0 else ("train", train_ids[key])
            return find_features(competition.path(split, image), recipe.local_features, extractor)

        if recipe.recognition.verify != "none":
            extractor = open_extractor(recipe.local_features, delf_weights(recipe), str(pick_device(recipe)))
        folder.mkdir(parents=True, exist_ok=True)
        self._features = FeatureCache(find, int(recipe.process_gib * 2**30), folder)

    def __enter__(self) -> "InlierCounter":
        return self

    def __exit__(self, *_) -> None:
        self._features.__exit__()

    def of(self, block: range) -> Count:
        """Counts for the test images of a block."""

        def count(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
            # Test images have the keys below 0.
            pairs = np.stack([-1 - (block.start + query), rows], axis=1)
            self._features.find_all(np.unique(pairs).tolist(), self._recipe.threads)
            return count_inliers(
                pairs, self._features, self._features, self._recipe.verification, self._recipe.threads
            )

        return count
