"""The train images that vote, and the descriptors they vote with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmark.competition import Competition, read_table
from landmark.descriptor_files import DescriptorFile
from landmark.recipe import Recipe


@dataclass(frozen=True)
class Gallery:
    """vectors (N, D) of unit length, labels (N,) int64, ids of the N train images."""

    vectors: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def gallery_inputs(recipe: Recipe, competition: Competition) -> dict[Path, str]:
    """The files `load_gallery` reads, and who makes them."""
    vectors = DescriptorFile(recipe.work / "descriptors", "train")
    inputs = dict.fromkeys(vectors.paths, "step 04 makes it: python src/04_extract.py")
    inputs[competition.table("train.csv")] = "it belongs to the competition's data"
    if recipe.gallery == "clean":
        inputs[recipe.work / "train_clean.csv"] = "step 01 makes it: python src/01_clean.py"
    return inputs


def load_gallery(recipe: Recipe, competition: Competition) -> Gallery:
    """All described train images or, with `gallery: clean`, those that cleaning kept.

    A label that cleaning lost whole keeps its images, unproved as they are: without them it could never be
    recognised.
    """
    vectors, ids = DescriptorFile(recipe.work / "descriptors", "train").read()
    label_of = dict(zip(competition.train["id"], competition.train["landmark_id"], strict=True))
    labels, ids = np.array([label_of[i] for i in ids], np.int64), np.array(ids)
    if recipe.gallery == "all":
        return Gallery(vectors, labels, ids)
    clean = read_table(recipe.work / "train_clean.csv", ["landmark_id", "images"])
    kept = np.isin(ids, np.array(" ".join(clean["images"]).split()))
    kept |= ~np.isin(labels, clean["landmark_id"].astype(np.int64))
    return Gallery(vectors[kept], labels[kept], ids[kept])
