"""What training learns from: the images of train_clean.csv that can be read, less those held out."""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import Competition, read_table, write_table
from landmark.errors import UserError
from landmark.images import BadImage, aspect_group, read_image
from landmark.parallel import ordered_map
from landmark.parts import Parts, clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Validation

# Images that one part of the scan decodes, which a killed run loses at most.
_PART = 8192
# A held-out image is looked up among this many train images for each held-out one, those of its label first.
_GALLERY = 5


@dataclass(frozen=True)
class TrainSet:
    """files (N,) bytes, their sizes (N, 2) int64 as height and width, labels (N,) int64 in 0..C-1.

    Arrays and no lists of objects, since each loader process would come to have a copy of these.
    """

    files: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[Path], sizes: np.ndarray, labels: np.ndarray) -> "TrainSet":
        """The set of images at these paths."""
        return cls(np.array([os.fsencode(path) for path in paths]), np.asarray(sizes), np.asarray(labels))

    def path(self, row: int) -> Path:
        return Path(os.fsdecode(self.files[row]))

    def subset(self, rows: np.ndarray) -> "TrainSet":
        """The images of these rows; labels stay what they are."""
        return TrainSet(self.files[rows], self.sizes[rows], self.labels[rows])

    @property
    def groups(self) -> np.ndarray:
        """The aspect group of each image, (N,) int64."""
        return aspect_group(self.sizes[:, 0], self.sizes[:, 1])


@dataclass(frozen=True)
class Found:
    """The readable images of train_clean.csv, the landmark id of each label, and how many could not be read."""

    images: TrainSet
    landmark_ids: list[int]
    left_out: int


def scanned_images(recipe: Recipe) -> Path:
    """The size of each image of train_clean.csv, or why it cannot be read."""
    return recipe.work / "train_images.csv"


def scan(recipe: Recipe, competition: Competition, state: str, ranks: Ranks) -> None:
    """Decode every image of train_clean.csv once, so that a broken one is found now and not in an epoch's middle.

    state: of the train images. Models that are trained at the same time, each by a step of its own, wait for the
    one that scans.
    """
    target = scanned_images(recipe)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (recipe.work / ".lock-scan").open("a") as lock:
        if ranks.first:
            fcntl.flock(lock, fcntl.LOCK_EX)
        ranks.wait()
        clean = recipe.work / "train_clean.csv"
        job = open_job(
            recipe,
            "02_scan",
            reads={clean: made_by("01_clean")},
            writes=[target],
            images=state,
        )
        if ranks.agree(job.is_done):
            return
        if ranks.first:
            job.start()
        table = read_table(clean, ["landmark_id", "images"])
        entries = [(int(label), i) for label, images in table.itertuples(index=False) for i in images.split()]
        if not entries:
            raise UserError(
                f"{clean}: no image was kept, and training needs two landmarks; --set cleaning.more_than=-1 keeps"
                " every image"
            )

        def size_of(row: int) -> tuple[int, int] | str:
            try:
                return read_image(competition.path("train", entries[row][1])).shape[:2]
            except BadImage as error:
                return str(error)

        def look(rows: range) -> tuple[np.ndarray, dict[str, str]]:
            seen = list(ordered_map(size_of, rows, recipe.threads))
            bad = {entries[row][1]: why for row, why in zip(rows, seen, strict=True) if isinstance(why, str)}
            sizes = [(0, 0) if isinstance(size, str) else size for size in seen]
            return np.array(sizes, np.int32).reshape(-1, 2), bad

        sizes_path = target.with_suffix(".npy")
        bad = Parts(sizes_path, len(entries), _PART, job.key()).make(ranks, look, "checking images")
        if ranks.first:
            frame = pd.DataFrame(entries, columns=["landmark_id", "id"])[["id", "landmark_id"]]
            frame[["height", "width"]] = np.load(sizes_path)
            frame["reason"] = frame["id"].map(bad)
            write_table(target, frame)
            job.finish()
            clear_parts(sizes_path)
            sizes_path.unlink()
        ranks.wait()


def load_train_set(recipe: Recipe, competition: Competition) -> Found:
    """What the scan found fit for training. Raises UserError when fewer than two labels are left."""
    path = scanned_images(recipe)
    table = read_table(path, ["id", "landmark_id", "height", "width"])
    good = table[table["height"].astype(int) > 0]
    landmark_ids, labels = np.unique(good["landmark_id"].to_numpy(np.int64), return_inverse=True)
    if len(landmark_ids) < 2:
        raise UserError(
            f"{path}: {len(landmark_ids)} landmark(s) have images that can be read; training needs two or more"
            " (--set cleaning.more_than=-1 keeps every image)"
        )
    images = TrainSet.of(
        [competition.path("train", i) for i in good["id"]],
        good[["height", "width"]].to_numpy(np.int64),
        labels.astype(np.int64),
    )
    return Found(images, landmark_ids.tolist(), len(table) - len(good))


def hold_out(labels: np.ndarray, settings: Validation, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, rows held out of it, and the train rows in which the held-out ones are looked up.

    labels: (N,) int64. Never more than a third of a label's images are held out, and the draw is by seed alone, so
    that fine-tuning holds out the same.
    """
    rng = np.random.default_rng([seed, len(labels)])
    wanted = min(settings.images, round(settings.share * len(labels)))
    order = rng.permutation(len(labels))
    place = place_in_label(labels[order])
    allowed = np.bincount(labels)[labels[order]] // 3
    held = np.sort(order[place < allowed][:wanted])
    rest = np.setdiff1d(order, held)
    shuffled = rng.permutation(rest)
    # Those of the held-out labels first, and of these one of each label before a second of any.
    foreign = ~np.isin(labels[shuffled], labels[held])
    first = shuffled[np.lexsort((place_in_label(labels[shuffled]), foreign))]
    return rest, held, np.sort(first[: _GALLERY * len(held)])


def place_in_label(labels: np.ndarray) -> np.ndarray:
    """For each entry of (N,) labels how many of the same label stand before it."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered, side="left")
    return place
