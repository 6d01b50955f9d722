"""The data of a run: a GLDv2-layout folder, or plain class folders seen as one."""

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.errors import UserError
from landmark.recipe import Recipe
from landmark.store import atomic_path

SPLITS = ("train", "index", "test")
MICRO = "gldv2_micro.csv"
DOWNLOAD_LOCK = ".download.lock"  # lies in every folder that a download was begun in
# By task, the plain and the published name.
SOLUTIONS = {task: (f"{task}_solution.csv", f"{task}_solution_v2.1.csv") for task in ("retrieval", "recognition")}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# Of every class of a plain folder; the rest, about half, is to learn from.
_INDEX_SHARE, _TEST_SHARE = 0.3, 0.2


class Competition:
    """Tables, image paths and solutions of one data set.

    data: where the images lie. tables: where the CSVs lie (for class folders, a folder the kit wrote).
    """

    def __init__(self, data: Path, tables: Path):
        self.data, self.tables = data, tables

    def table(self, name: str) -> Path:
        """Path of train.csv, index.csv, test.csv or a solution."""
        return self.tables / name

    @cached_property
    def train(self) -> pd.DataFrame:
        """Columns id (str) and landmark_id (int64), in file order."""
        path = self.table("train.csv")
        frame = _read_ids(path, ["id", "landmark_id"])
        _refuse(path, frame["landmark_id"], r"-?\d{1,18}", "is not a whole number")
        return frame.astype({"landmark_id": np.int64})

    def labels_of(self, ids: Iterable[str]) -> np.ndarray:
        """The landmark ids (N,) int64 of N train images."""
        return self.train.set_index("id")["landmark_id"].loc[list(ids)].to_numpy()

    def ids(self, split: str) -> list[str]:
        """Image ids of train, index or test, in file order."""
        if split == "train":
            return self.train["id"].tolist()
        return _read_ids(self.table(f"{split}.csv"), ["id"])["id"].tolist()

    def submission_ids(self) -> list[str]:
        """Test ids that a submission has a row for: the whole competition's, where test.csv is a part of them.

        Then metadata/test.csv is the whole; a download or a notebook that takes a part of the data writes it.
        """
        return _read_ids(self.submission_table, ["id"])["id"].tolist()

    @property
    def submission_table(self) -> Path:
        """The table of those ids."""
        whole = self.table("metadata/test.csv")
        return whole if whole.exists() else self.table("test.csv")

    def require_images(self, *splits: str) -> None:
        """Raise UserError where one of the splits lists no image, as after the download of a part."""
        for split in splits:
            if not self.ids(split):
                raise UserError(
                    f"{self.table(split)}.csv lists no image, and this step wants some; a download without"
                    " --splits fetches some of every split"
                )

    def solution(self, task: str) -> Path | None:
        """The solution of "retrieval" or "recognition", or None."""
        return next((path for name in SOLUTIONS[task] if (path := self.table(name)).exists()), None)

    def path(self, split: str, image_id: str) -> Path:
        """Where the image lies: <split>/a/b/c/<id>.jpg, or for class folders where the user has it."""
        if self._files is not None:
            return self.data / self._files[image_id]
        return self.data / split / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"

    @cached_property
    def _files(self) -> dict[str, str] | None:
        path = self.table("files.csv")
        if self.tables == self.data or not path.exists():
            return None
        frame = read_table(path, ["id", "path"])
        return dict(zip(frame["id"], frame["path"], strict=True))

    def state(self, split: str) -> str:
        """A digest of names, sizes and times of a split's images: changes when any of them does."""
        digest = hashlib.blake2b(digest_size=16)
        for image_id in self.ids(split):
            try:
                stat = os.stat(self.path(split, image_id))
                digest.update(f"{image_id} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            except FileNotFoundError:
                digest.update(f"{image_id} -\n".encode())
        return digest.hexdigest()


def check_folder(recipe: Recipe) -> None:
    """Raise UserError when the recipe's `data` is no folder, unless the recipe renders it."""
    if recipe.sample is None and not recipe.data.is_dir():
        what = "is a file, not a folder" if recipe.data.exists() else "is not there"
        fetched = recipe.bucket is not None or recipe.kaggle.dataset is not None
        way = f"bash run.sh download --recipe {recipe.name} fetches it, or " if fetched else ""
        raise UserError(f"data: {recipe.data} {what}; {way}give --set data=FOLDER")


def open_competition(recipe: Recipe) -> Competition:
    """The competition that the recipe's `data` holds.

    Raises UserError when the folder is none of: a GLDv2 layout (with train.csv), the data set GLDv2-micro (with
    gldv2_micro.csv), class folders with images.
    """
    data = recipe.data
    if (data / "train.csv").exists():
        for split in SPLITS:
            if not (data / f"{split}.csv").exists():
                raise UserError(
                    f"{data / split}.csv is missing; a GLDv2 layout has train.csv, index.csv and test.csv"
                )
        return Competition(data, data)
    if recipe.sample is not None:
        raise UserError(
            f"{data / 'train.csv'} is missing; step 00 makes it: src/00_sample.py with the same --recipe and --set"
            " (photographs of your own want --recipe photos)"
        )
    check_folder(recipe)
    classes = _micro_classes(data)
    if not classes and (data / DOWNLOAD_LOCK).exists():
        # Its split folders would pass for classes.
        raise UserError(
            f"data: {data} is a download that has not ended; bash run.sh download --recipe {recipe.name} goes on"
        )
    classes = classes or _class_folders(data)
    if not classes:
        raise UserError(
            f"data: {data} holds neither train.csv (GLDv2 layout) nor class folders with images (class/image.jpg)"
        )
    images = _split(classes, recipe.seed)
    if set(SPLITS) - set(images["split"]):
        raise UserError(f"data: {data} has no class of three or more images; there is nothing to search in")
    tables = recipe.work / "competition"
    _write_tables(images, tables)
    return Competition(data, tables)


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a CSV as text, each value of the first once. Raises UserError that names file and row."""
    try:
        # Without index_col=False a comma too many at the end of a row would shift the columns.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; it belongs to the competition's data") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV: {' '.join(str(error).split())}") from error
    missing = [c for c in columns if c not in frame]
    if missing:
        raise UserError(f"{path}: the header has no column {missing[0]}; expected {','.join(columns)}")
    key = frame[columns[0]]
    if key.duplicated().any():
        row = int(key.duplicated().to_numpy().argmax())
        raise UserError(f"{path}, row {row + 2}: {columns[0]} {key.iloc[row]!r} stands there twice")
    return frame[columns]


def _read_ids(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table of images. Ids become file names and stand in space-separated lists, so they must be plain."""
    frame = read_table(path, columns)
    _refuse(path, frame["id"], r"[A-Za-z0-9_-]{3,}", "is not an image id: three or more of A-Z a-z 0-9 _ -")
    return frame


def _refuse(path: Path, values: pd.Series, pattern: str, why: str) -> None:
    """Raise UserError for the first value that is not of the pattern."""
    wrong = ~values.str.fullmatch(pattern).to_numpy(bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}, row {row + 2}: {values.name} {values.iloc[row]!r} {why}")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV, atomically."""
    with atomic_path(path) as part:
        frame.to_csv(part, index=False, lineterminator="\n")


# A class of images whose splits the kit makes: its landmark id, its name, and its files relative to `data`.
_Class = tuple[int, str, list[Path]]


def _micro_classes(data: Path) -> list[_Class]:
    """The classes of GLDv2-micro: a CSV of filename and landmark_id beside images/; none of it, an empty list."""
    table = next((path for path in (data / MICRO, data / "gldv2_micro" / MICRO) if path.exists()), None)
    if table is None:
        return []
    frame = read_table(table, ["filename", "landmark_id"])
    _refuse(table, frame["landmark_id"], r"\d{1,18}", "is not a whole number")
    _refuse(table, frame["filename"], r"[^/\\]+", "is not the name of a file in images/")
    folder = table.parent.relative_to(data) / "images"
    files = frame.groupby(frame["landmark_id"].astype(np.int64))["filename"].agg(sorted)
    return [(label, str(label), [folder / name for name in names]) for label, names in files.items()]


def _class_folders(data: Path) -> list[_Class]:
    """The classes of plain folders, numbered in order of name."""
    classes = []
    for folder in sorted(p for p in data.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = sorted(
            p.relative_to(data)
            for p in folder.rglob("*")
            if p.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in p.relative_to(data).parts)
        )
        for image in images:
            if not _is_text(str(image)):
                raise UserError(f"data: the name {str(image)!r} in {data} is not UTF-8; rename it")
        if images:
            classes.append((len(classes), folder.name, images))
    return classes


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split(classes: list[_Class], seed: int) -> pd.DataFrame:
    """Columns id, path, split, landmark_id, name; a class of three or more images is in every split."""
    rows = []
    for number, name, paths in classes:
        # Seeded by class and not by position, so that a new class leaves the others' splits alone.
        class_seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        order = np.random.default_rng([seed, class_seed]).permutation(len(paths))
        count = len(paths)
        test = max(1, round(_TEST_SHARE * count)) if count > 1 else 0
        index = max(1, round(_INDEX_SHARE * count)) if count > 2 else 0
        cuts = [count - index - test, count - test]
        for split, members in zip(SPLITS, np.split(order, cuts), strict=True):
            for i in sorted(members):
                key = hashlib.blake2b(paths[i].as_posix().encode(), digest_size=8).hexdigest()
                rows.append((key, paths[i].as_posix(), split, number, name))
    return pd.DataFrame(rows, columns=["id", "path", "split", "landmark_id", "name"])


def _write_tables(images: pd.DataFrame, folder: Path) -> None:
    """Write the GLDv2 tables of a split; files that already say the same stay untouched."""
    split = {s: images[images["split"] == s] for s in SPLITS}
    index_of = split["index"].groupby("landmark_id")["id"].agg(" ".join)
    test = split["test"][["id", "landmark_id"]]
    # One query in three is Public, as on the leaderboard of 2019, by the id's own randomness.
    usage = np.where(test["id"].map(lambda i: int(i, 16) % 3 == 0), "Public", "Private")
    relevant = test["landmark_id"].map(index_of)
    tables = {
        "files.csv": images[["id", "path", "split"]],
        "landmarks.csv": images[["landmark_id", "name"]].drop_duplicates(),
        "train.csv": split["train"].assign(url="")[["id", "url", "landmark_id"]],
        "index.csv": split["index"][["id"]],
        "test.csv": test[["id"]],
        "recognition_solution.csv": pd.DataFrame(
            {"id": test["id"], "landmarks": test["landmark_id"], "Usage": usage}
        ),
        "retrieval_solution.csv": pd.DataFrame(
            {
                "id": test["id"],
                "images": relevant.fillna("None"),
                "Usage": np.where(relevant.isna(), "Ignored", usage),
            }
        ),
    }
    for name, table in tables.items():
        text = table.to_csv(index=False, lineterminator="\n")
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8")
