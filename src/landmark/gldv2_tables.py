"""The tables of the photographs of Google Landmarks v2 that are at hand, out of the published ones."""

import filecmp
import os
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from landmark.competition import SOLUTIONS, SPLITS, read_table, write_table
from landmark.gldv2 import ids_at_hand
from landmark.judging import part_of_solution

_CATEGORY = "Category:"


def write_tables(data: Path) -> dict[str, tuple[int, int]]:
    """Write train.csv, index.csv, test.csv, train_clean.csv, landmarks.csv and the solutions into `data`.

    They hold what data/metadata/ says of the photographs that are extracted. Optional ones are left out where they
    are not published. A table that would say the same keeps its time. Returns for each split how many rows it has
    and how many are published.
    """
    published = data / "metadata"
    at_hand = {split: set(ids_at_hand(data, split)) for split in SPLITS}
    columns = {"train": ["id", "url", "landmark_id"], "index": ["id"], "test": ["id"]}
    rows = {}
    for split in SPLITS:
        whole = read_table(published / f"{split}.csv", columns[split])
        part = whole[whole["id"].isin(at_hand[split])]
        _write_changed(data / f"{split}.csv", part)
        rows[split] = len(part), len(whole)
    for task, (_, name) in SOLUTIONS.items():
        truth = part_of_solution(published / name, task, at_hand["test"], at_hand["index"])
        _write_changed(data / name, truth)
    if (published / "train_clean.csv").exists():
        clean = read_table(published / "train_clean.csv", ["landmark_id", "images"])
        clean["images"] = [" ".join(i for i in ids.split() if i in at_hand["train"]) for ids in clean["images"]]
        _write_changed(data / "train_clean.csv", clean[clean["images"] != ""])
    if (published / "train_label_to_category.csv").exists():
        categories = read_table(published / "train_label_to_category.csv", ["landmark_id", "category"])
        names = [landmark_name(category) for category in categories["category"]]
        _write_changed(data / "landmarks.csv", categories[["landmark_id"]].assign(name=names))
    return rows


def landmark_name(category: str) -> str:
    """The name in the address of a category of Wikimedia Commons."""
    return unquote(category.rpartition(_CATEGORY)[2]).replace("_", " ")


def _write_changed(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV, unless it is there with the same bytes."""
    fresh = path.with_name(f".fresh-{path.name}")
    write_table(fresh, frame)
    if path.exists() and filecmp.cmp(path, fresh, shallow=False):
        fresh.unlink()
    else:
        os.replace(fresh, path)
