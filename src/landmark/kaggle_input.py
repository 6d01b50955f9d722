"""The data that is attached to a Kaggle notebook: found wherever it is mounted, and cut for a trial run.

Kaggle has mounted it at /kaggle/input/<name>, /kaggle/input/datasets/<owner>/<name> and
/kaggle/input/competitions/<name>. Nothing is written there: folders of links stand for it.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import IMAGE_SUFFIXES, MICRO, SOLUTIONS, SPLITS, Competition, read_table, write_table
from landmark.errors import UserError
from landmark.judging import part_of_solution
from landmark.submission import read_solution

_DEPTH = 5  # of folders that are looked into
_CLASSES = 300  # a folder with more than so many has one for each class, and nothing else is looked for in them
_LISTS_TEST = ("test.csv", "sample_submission.csv")


def find_data(root: Path, favourites: Sequence[str], target: Path) -> Path:
    """The folder below `root` with the data, of any kind that a recipe's `data` may be.

    Tables and images in the GLDv2 layout may lie in different places; `target` is then made anew as a folder of
    links to them. Of several the first is taken: those of the `favourites` (names on Kaggle) in their order, then
    those of any competition, then the shallowest. So the competition says which test images there are.
    Raises UserError when there is none, with what there is.
    """
    places = sorted(_folders(root), key=lambda place: _rank(place.relative_to(root).parts, favourites))
    tables = [place for place in places if _has_columns(place / "train.csv", {"id", "landmark_id"})]
    others = [place for place in places if (place / MICRO).exists()]
    found = [*tables, *others, *(place for place in places if _has_classes(place))]
    if found:
        print(f"photographs: {found[0]}")
        for other in found[1:]:
            print(f"not taken: {other}; to take it, name it in SET: data={other}")
    if tables:
        _link_pieces(places, tables[0], target)
        return target
    if not found:
        shown = ", ".join(place.relative_to(root).as_posix() for place in places[:8]) or "nothing"
        raise UserError(
            f"{root} holds no landmark data: neither train.csv (id,landmark_id) with the folders train/ and test/,"
            f" nor {MICRO}, nor class folders with images; attached: {shown}"
        )
    return found[0]


def cut_data(whole: Competition, target: Path, count: int) -> bool:
    """Write a part of a competition with at most `count` images a split to `target`, unless it is that small.

    Landmarks are taken whole, or with half of `count` images where they have more; those first that test images
    show and that have four train images or more. With them come their test images, as far as solutions tell them,
    distractors, and the index images to find. Rows of the solutions are those of the part. A submission keeps a
    row for every test image of the whole. Tables may list more images than there are: only those there are taken.
    Raises UserError where a split has none of them.
    """
    ids = {split: whole.ids(split) for split in SPLITS}
    if all(len(split) <= count for split in ids.values()):
        return False
    labels_of, found_by = {}, {}
    if path := whole.solution("recognition"):
        labels_of = read_solution(path, "recognition").truth
    if path := whole.solution("retrieval"):
        found_by = read_solution(path, "retrieval").truth
    # Two landmarks at least, so that there is something to tell apart.
    train = whole.train.groupby("landmark_id").head(max(1, count // 2))
    taken = _some_landmarks(whole, train, set().union(*labels_of.values()), count)
    train = train[train["id"].isin(taken)]
    kept, labels = {"train": train["id"].tolist()}, set(train["landmark_id"])
    # What shows a landmark that was left out could only be answered wrongly.
    fair = [i for i in ids["test"] if labels_of.get(i, set()) <= labels] or ids["test"]
    kept["test"] = _first(whole, "test", fair, count, {i for i, shown in labels_of.items() if shown})
    wanted = set().union(*(found_by.get(i, set()) for i in kept["test"]))
    kept["index"] = _first(whole, "index", ids["index"], count, wanted)
    for split in SPLITS:
        if not kept[split]:
            raise UserError(f"{whole.table(split + '.csv')} lists {len(ids[split])} images, and none is attached")

    shutil.rmtree(target, ignore_errors=True)
    write_table(target / "train.csv", train)
    for split in ("index", "test"):
        write_table(target / f"{split}.csv", pd.DataFrame({"id": kept[split]}))
    write_table(target / "metadata/test.csv", pd.DataFrame({"id": whole.submission_ids()}))
    for task, (name, _) in SOLUTIONS.items():
        if path := whole.solution(task):
            write_table(target / name, part_of_solution(path, task, set(kept["test"]), set(kept["index"])))
    if whole.table("landmarks.csv").exists():
        _link(whole.table("landmarks.csv"), target / "landmarks.csv")
    part = Competition(target, target)
    for split in SPLITS:
        for image in kept[split]:
            _link(whole.path(split, image), part.path(split, image))
    return True


def _some_landmarks(whole: Competition, train: pd.DataFrame, asked: set[int], count: int) -> set[str]:
    """The images of landmarks that together have at most `count`."""
    landmarks = list(train.groupby("landmark_id")["id"].agg(list).items())
    order = np.random.default_rng(0).permutation(len(landmarks))
    taken = set()
    for row in sorted(order, key=lambda row: (landmarks[row][0] not in asked, len(landmarks[row][1]) < 4)):
        # Only what would be taken is looked for: of millions of images that costs most.
        if len(landmarks[row][1]) <= count - len(taken):
            taken.update(i for i in landmarks[row][1] if whole.path("train", i).exists())
    return taken


def _first(whole: Competition, split: str, ids: list[str], count: int, preferred: set[str]) -> list[str]:
    """At most `count` ids, the preferred ones before the others, in their order of old."""
    ordered = sorted(ids, key=lambda i: i not in preferred)
    taken = set(islice((i for i in ordered if whole.path(split, i).exists()), count))
    return [i for i in ids if i in taken]


def _link_pieces(places: list[Path], train: Path, target: Path) -> None:
    """Make `target` a GLDv2 layout of links: the tables of the first places that have them, and the images."""
    trees = {s: next((place / s for place in places if _is_tree(place / s)), None) for s in SPLITS}
    for split in ("train", "test"):
        if trees[split] is None:
            raise UserError(f"{train / 'train.csv'} is there, but nowhere {split}/ with images a/b/c/<id>.jpg")
    listed = (place / name for place in places for name in _LISTS_TEST)
    test = next((path for path in listed if _has_columns(path, {"id"})), None)
    if test is None:
        raise UserError(f"{train / 'train.csv'} is there, but no {' or '.join(_LISTS_TEST)} with test ids")

    shutil.rmtree(target, ignore_errors=True)
    _link(train / "train.csv", target / "train.csv")
    if (train / "landmarks.csv").exists():
        _link(train / "landmarks.csv", target / "landmarks.csv")
    _link(test, target / "test.csv")
    # Those of other test images would score nothing.
    for name in ("metadata/test.csv", *SOLUTIONS["retrieval"], *SOLUTIONS["recognition"]):
        if (test.parent / name).exists():
            _link(test.parent / name, target / name)
    # One from elsewhere may list what these photographs are not.
    if trees["index"] and _has_columns(train / "index.csv", {"id"}):
        _link(train / "index.csv", target / "index.csv")
    elif trees["index"]:
        names = sorted(path.stem for path in trees["index"].glob("?/?/?/*.jpg"))
        write_table(target / "index.csv", pd.DataFrame({"id": names}))
    else:
        print("no index is attached, as for a recognition competition: test images are searched in one another")
        write_table(target / "index.csv", read_table(test, ["id"]))
        trees["index"] = trees["test"]
    for split, tree in trees.items():
        _link(tree, target / split)


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.absolute())


def _folders(root: Path) -> Iterable[Path]:
    """The folders below `root`, the shallow ones first, but none of an image tree or of the kit's own dataset."""
    level = [root]
    for _ in range(_DEPTH):
        inside = map(_children, level)
        # Those of one character are the branches of an image tree.
        few = (children for children in inside if len(children) <= _CLASSES)
        level = [child for children in few for child in children if len(child.name) > 1]
        yield from level


def _children(folder: Path) -> list[Path]:
    if (folder / "wheels.txt").exists():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _rank(parts: tuple[str, ...], favourites: Sequence[str]) -> tuple:
    chosen = min((number for number, name in enumerate(favourites) if name in parts), default=len(favourites))
    return chosen, "competitions" not in parts, len(parts)


def _has_columns(path: Path, columns: set[str]) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return columns <= {name.strip().strip('"') for name in file.readline().split(",")}


def _is_tree(folder: Path) -> bool:
    """Whether it holds images as a/b/c/<id>.jpg."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(len(entry.name) == 1 and entry.is_dir() for entry in entries)


def _has_classes(folder: Path) -> bool:
    """Whether two or more of its folders hold images."""
    holding = 0
    for child in _children(folder):
        with os.scandir(child) as entries:
            holding += any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in entries)
        if holding == 2:
            return True
    return False
