"""The train images that vote, and the descriptors they vote with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmark.competition import Competition, read_table
from landmark.descriptor_files import DescriptorFile
from landmark.plan import made_by
from landmark.recipe import Recipe


@dataclass(frozen=True)
class Gallery:
    """vectors (N, D) of unit length, labels (N,) int64, ids of the N train images."""

    vectors: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Labels of rows of any shape; -1 for a row of -1."""
        return np.where(rows >= 0, self.labels[rows], -1)


def gallery_inputs(recipe: Recipe, competition: Competition) -> dict[Path, str]:
    """The files `load_gallery` reads, and who makes them."""
    vectors = DescriptorFile(recipe.work / "descriptors", "train")
    inputs = dict.fromkeys(vectors.paths, made_by("04_extract"))
    inputs[competition.table("train.csv")] = "it belongs to the competition's data"
    if recipe.gallery != "all":
        inputs[recipe.work / "clean_decisions.csv"] = made_by("01_clean")
    return inputs


def load_gallery(recipe: Recipe, competition: Competition) -> Gallery:
    """The described train images that the recipe's `gallery` admits, by step 01's decisions.

    all: every one, as the winners did. uncontradicted: all but those for which verified images vote otherwise.
    clean: those that were kept; a label that cleaning lost whole keeps its images, unproved as they are, since
    without them it could never be recognised.
    """
    vectors, ids = DescriptorFile(recipe.work / "descriptors", "train").read()
    labels, ids = competition.labels_of(ids), np.array(ids)
    if recipe.gallery == "all":
        return Gallery(vectors, labels, ids)
    column = {"clean": "kept", "uncontradicted": "contradicted"}[recipe.gallery]
    decisions = read_table(recipe.work / "clean_decisions.csv", ["id", column])
    marked = np.isin(ids, decisions.loc[decisions[column] == "True", "id"].to_numpy(str))
    admitted = ~marked if column == "contradicted" else marked | ~np.isin(labels, labels[marked])
    return Gallery(vectors[admitted], labels[admitted], ids[admitted])
