"""A large array that is made part by part: by several processes, and continued after a kill."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from landmark.progress import track
from landmark.ranks import Ranks
from landmark.store import atomic_path, keyed_folder, write_json


class Parts:
    """The parts of one array of `rows` rows, `size` rows each, as files in a folder of their own.

    The folder's name holds `key`, so that parts of other settings or inputs are never taken for these.
    """

    def __init__(self, target: Path, rows: int, size: int, key: str):
        self.target = target
        self.folder = _folder(target) / key
        self.ranges = [range(start, min(start + size, rows)) for start in range(0, rows, size)]

    def make(self, ranks: Ranks, work: Callable[[range], tuple[np.ndarray, dict]], what: str = "") -> dict:
        """Let each process make its share of what is missing with `work`; the first joins all to `target`.

        work: rows -> their array (n, ...) and notes, a dictionary that JSON can hold. what: title of the progress
        by parts; without it `work` shows its own. Returns all notes together; the parts stay until `clear_parts`.
        """
        if ranks.first:
            keyed_folder(self.folder.parent, self.folder.name)
        ranks.wait()
        missing = [part for part in range(len(self.ranges)) if not self.path(part).exists()]
        ranks.wait()
        mine = ranks.share(missing)
        for part in track(mine, len(mine), what, unit="parts") if what else mine:
            array, notes = work(self.ranges[part])
            write_json(self.path(part).with_suffix(".json"), notes)
            with atomic_path(self.path(part)) as path, path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        ranks.wait()
        notes = {}
        for part in range(len(self.ranges)):
            notes |= json.loads(self.path(part).with_suffix(".json").read_text(encoding="utf-8"))
        ranks.wait()
        if ranks.first:
            self._join()
        ranks.wait()
        return notes

    def path(self, part: int) -> Path:
        return self.folder / f"{part:05d}.npy"

    def _join(self) -> None:
        paths = [self.path(part) for part in range(len(self.ranges))]
        # One after the other: a map keeps its file open, and there may be more parts than files may be.
        heads = [((head := np.load(path, mmap_mode="r")).shape, head.dtype) for path in paths]
        # A part without rows may not know how long a row is.
        (_, *row), dtype = next((head for head in heads if head[0][0]), heads[0])
        shape = sum(shape[0] for shape, _ in heads), *row
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with atomic_path(self.target) as target, target.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for path in paths:
                file.write(np.load(path).tobytes())


def clear_parts(target: Path) -> None:
    """Remove the parts of an array, once it is recorded as done."""
    shutil.rmtree(_folder(target), ignore_errors=True)


def _folder(target: Path) -> Path:
    return target.parent / f"{target.stem}.parts"


class PartFiles:
    """The arrays that one job makes part by part in a folder of its own, shared by the processes and continued."""

    def __init__(self, folder: Path, key: str, ranks: Ranks):
        self.folder, self._key, self._ranks = folder, key, ranks

    def array(self, name: str, rows: int, size: int, work: Callable[[range], np.ndarray], what: str) -> np.ndarray:
        """The memory-mapped array of that name, of `rows` rows, `size` of which `work` makes at a time."""
        target = self.folder / f"{name}.npy"
        Parts(target, rows, size, self._key).make(self._ranks, lambda part: (work(part), {}), what)
        return np.load(target, mmap_mode="r", allow_pickle=False)
