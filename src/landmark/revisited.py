"""Revisited Oxford and Paris (Radenović et al., CVPR 2018): the benchmarks' files, queries and figures.

Protocol: https://github.com/filipradenovic/revisitop (python/evaluate.py, example_evaluate.py and
example_process_images.py). The data is not shipped; the user has it.
"""

import _codecs
import hashlib
import math
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmark.errors import UserError
from landmark.images import BadImage, read_image

NAMES = ("roxford5k", "rparis6k")
# What counts as found in each setup, and what is taken out of the ranking.
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
KAPPAS = (1, 5, 10)
FIGURES = ("map", *(f"mp{k}" for k in KAPPAS))
_GRADES = ("easy", "hard", "junk")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class Benchmark:
    """N database images and Q queries, by name; `folder` has the ground truth and the images in jpg/.

    boxes: (Q, 4) float64, x1, y1, x2, y2 in pixels of the query's image. truth: of each query the rows of its
    easy, hard and junk images among the N, int64.
    """

    folder: Path
    name: str
    images: list[str]
    queries: list[str]
    boxes: np.ndarray
    truth: list[dict[str, np.ndarray]]

    def path(self, image: str) -> Path:
        """Where the image or query of that name lies."""
        return self.folder / "jpg" / f"{image}.jpg"

    def read_image(self, row: int) -> np.ndarray:
        """A database image, RGB (H, W, 3) uint8. Raises BadImage."""
        # Not turned as EXIF says, since the official code does not; the boxes are of the pixels as stored.
        return read_image(self.path(self.images[row]), turned=False)

    def read_query(self, row: int) -> np.ndarray:
        """A query, cropped by its box, RGB (H, W, 3) uint8. Raises BadImage."""
        path = self.path(self.queries[row])
        image = read_image(path, turned=False)
        part = crop(image, self.boxes[row])
        if not part.size:
            box = ", ".join(f"{value:g}" for value in self.boxes[row])
            raise BadImage(
                f"{path}: the query's box {box} holds no pixel of its {image.shape[1]} x {image.shape[0]}"
            )
        return part

    def state(self, names: Sequence[str]) -> str:
        """A digest of names, sizes and times of images: changes when any of them does.

        Raises UserError for one that is not there.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name in names:
            try:
                stat = os.stat(self.path(name))
            except FileNotFoundError:
                raise UserError(
                    f"{self.path(name)} is missing; {truth_path(self.folder.parent, self.name)} lists it, so"
                    f" put all images of {self.name} there"
                ) from None
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def truth_path(folder: Path, name: str) -> Path:
    """Where the ground truth of a benchmark lies in the folder of all benchmarks."""
    return folder / name / f"gnd_{name}.pkl"


def crop(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of an image (H, W, 3) within x1, y1, x2, y2 in pixels, x2 and y2 exclusive; empty if there is none.

    Each side is rounded to the nearest whole number, halves to the even one, as PIL's Image.crop does in the
    official code. What reaches beyond the image is cut off, where PIL would fill it with black.
    """
    x1, y1, x2, y2 = (max(0, round(float(side))) for side in box)
    return image[y1:y2, x1:x2]


def evaluate(benchmark: Benchmark, ranks: np.ndarray) -> dict[str, dict[str, float]]:
    """map, mp1, mp5 and mp10 in [0, 1] of the setups easy, medium and hard, to the last bit the official code's.

    ranks: (Q, N) integers, all rows of `benchmark.images`, best first. Queries without an image to find are left
    out of a setup's means; where all are, the figures are NaN. Raises ValueError for anything but whole rankings.
    """
    shape = len(benchmark.queries), len(benchmark.images)
    ranks = np.asarray(ranks)
    if ranks.shape != shape or (np.sort(ranks, axis=1) != np.arange(shape[1])).any():
        raise ValueError(f"ranks: of shape {ranks.shape}; wanted are {shape[0]} permutations of {shape[1]} images")
    figures = {}
    for setup, (found, removed) in SETUPS.items():
        values = []
        for ranking, truth in zip(ranks, benchmark.truth, strict=True):
            ok, junk = (np.concatenate([truth[grade] for grade in grades]) for grades in (found, removed))
            if len(ok):
                values.append(_figures_of(ranking, ok, junk))
        # Summed one after the other, as there: numpy's sum adds in pairs, with other last bits.
        means = np.cumsum(values, axis=0)[-1] / len(values) if values else [math.nan] * len(FIGURES)
        figures[setup] = dict(zip(FIGURES, map(float, means), strict=True))
    return figures


def _figures_of(ranking: np.ndarray, ok: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """AP and the precisions at KAPPAS, float64 (4,), of one query's ranking (N,); ok, junk: rows of images."""
    place = np.empty(len(ranking), np.int64)
    place[ranking] = np.arange(len(ranking))
    is_junk = np.zeros(len(ranking), bool)
    is_junk[place[junk]] = True
    hits = np.unique(place[ok])
    # From 0, in the ranking without its junk.
    rank = hits - (np.cumsum(is_junk) - is_junk)[hits]
    number = np.arange(len(rank))
    # The area below precision over recall, by trapezoids: precision just before and just after each hit.
    before = np.where(rank == 0, 1.0, number / np.maximum(rank, 1))
    after = (number + 1) / (rank + 1)
    area = np.cumsum((before + after) * (1.0 / len(ok)) / 2.0)[-1]
    # Where the last hit stands before k, precision is taken there.
    depth = np.minimum(rank[-1] + 1, KAPPAS)
    return np.array([area, *((rank[:, None] < depth).sum(axis=0) / depth)])


def read_benchmark(folder: Path, name: str) -> Benchmark:
    """Read <folder>/<name>/gnd_<name>.pkl; the images, <folder>/<name>/jpg/<image>.jpg, are not looked at.

    Raises UserError for a file that is missing or damaged, that asks for anything but plain data (nothing of it
    is run), or whose content is not of the official layout.
    """
    if not re.fullmatch(_NAME, name):
        raise UserError(f"--names {name}: not a benchmark's name, such as {' or '.join(NAMES)}")
    path = truth_path(folder, name)
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dictionary with imlist, qimlist and gnd")
    images, queries, truth = (_list(path, content, key) for key in ("imlist", "qimlist", "gnd"))
    for key, names in (("imlist", images), ("qimlist", queries)):
        for number, image in enumerate(names, 1):
            # They become file names, and stand in lists one a line.
            if not (isinstance(image, str) and re.fullmatch(_NAME, image)):
                raise UserError(f"{path}: {key}, number {number}, is not an image's name; take the official file")
        if not names:
            raise UserError(f"{path}: {key} is empty")
    if len(truth) != len(queries):
        raise UserError(f"{path}: gnd has {len(truth)} entries for {len(queries)} queries")
    boxes, graded = [], []
    for query, entry in zip(queries, truth, strict=True):
        where = f"gnd of {query}: "
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {where}a {type(entry).__name__}, not a dictionary")
        box = _list(path, entry, "bbx", where)
        if len(box) != 4 or not all(isinstance(side, int | float) and abs(side) < 1e9 for side in box):
            raise UserError(f"{path}: {where}bbx must be four numbers x1, y1, x2, y2")
        boxes.append(box)
        graded.append({grade: _rows(path, entry, grade, where, len(images)) for grade in _GRADES})
    return Benchmark(folder / name, name, images, queries, np.array(boxes, np.float64), graded)


def _list(path: Path, values: dict, key: str, where: str = "") -> list:
    if key not in values:
        raise UserError(f"{path}: {where}{key} is missing; take the official ground truth")
    if not isinstance(values[key], list | tuple):
        raise UserError(f"{path}: {where}{key} is a {type(values[key]).__name__}, not a list")
    return list(values[key])


def _rows(path: Path, entry: dict, grade: str, where: str, count: int) -> np.ndarray:
    rows = _list(path, entry, grade, where)
    for number, row in enumerate(rows, 1):
        if not (isinstance(row, int) and 0 <= row < count):
            raise UserError(f"{path}: {where}{grade}, number {number}, is not a row of imlist, 0 to {count - 1}")
    return np.array(rows, np.int64)


class _Refused(Exception):
    """A pickle asks for something that is not plain data."""


class _DType:
    """Stands for numpy.dtype, of whole and broken numbers, text and objects."""

    def __init__(self, code: str, align: object = None, copy: object = None):
        if not re.fullmatch(r"[biuf][1248]|[US]\d{1,4}|O\d?", code):
            raise _Refused(ascii(f"numpy.dtype {code}"[:80]))
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def values(self, data: bytes | str) -> list:
        """The numbers or texts that the bytes hold. Those of Python 2 were read as Latin-1 text."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        values = np.frombuffer(raw, self.dtype) if raw else np.empty(0)
        return (values.astype(str) if self.dtype.kind == "S" else values).tolist()


class _Array(list):
    """Stands for numpy.ndarray, and is the flat list of its values."""

    def __init__(self, kind: object, shape: tuple, code: bytes | str):
        """As numpy's _reconstruct is called, always with an empty array that the state then fills."""

    def __setstate__(self, state: tuple) -> None:
        _, _, dtype, _, data = state
        self[:] = data if dtype.dtype.kind == "O" else dtype.values(data)


def _scalar(dtype: _DType, data: bytes | str) -> object:
    """Stands for the function that makes numpy's scalars."""
    (value,) = dtype.values(data)
    return value


# numpy's own classes would take a state made up by a hostile file, down to fields that are read as addresses; so
# plain ones stand in for them.
_STANDINS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _codecs.encode,  # how protocol 2 writes bytes
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    # The others have opcodes of their own; protocol 2 writes empty bytes by their name.
    **{
        (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, bytes)
    },
}


class _Unpickler(pickle.Unpickler):
    """Makes containers, numbers, texts and numpy arrays of them; looks nothing else up."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return _STANDINS[module, name]
        except KeyError:
            raise _Refused(ascii(f"{module}.{name}"[:80])) from None


def _load(path: Path) -> object:
    """The content of a pickle, maybe of Python 2, its numpy arrays as flat lists."""
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing; --benchmarks is the folder that has {path.parent.name}/{path.name} and"
            f" {path.parent.name}/jpg/ (--names takes other benchmarks)"
        ) from error
    except _Refused as error:
        raise UserError(
            f"{path}: it asks for {error}, which a ground truth does not need; nothing of it was run. Take the"
            " official file"
        ) from None
    except OSError:
        raise
    except Exception as error:  # what a damaged pickle raises is not documented
        raise UserError(f"{path}: not a pickle, or damaged ({type(error).__name__}); fetch it again") from error
