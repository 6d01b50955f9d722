"""Descriptors on disk, and their concatenation to an ensemble."""

from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import read_table, write_table
from landmark.errors import UserError
from landmark.store import atomic_path

_ROWS = 65_536  # that are joined at a time: 0.8 GB at 3072 numbers


class DescriptorFile:
    """Descriptors of one split on disk.

    <split>.npy (N, D) float16; <split>.txt, N ids, one a line; <split>.skipped.csv, id and reason of the images
    left out.
    """

    def __init__(self, folder: Path, split: str):
        self.vectors_path, self.ids_path = folder / f"{split}.npy", folder / f"{split}.txt"
        self.skipped_path = folder / f"{split}.skipped.csv"
        self.paths = [self.vectors_path, self.ids_path, self.skipped_path]

    def write_joined(self, members: list["DescriptorFile"], weights: list[float]) -> None:
        """Write the ensemble of `members`, some rows at a time. Raises UserError if their images differ."""
        vectors, ids = zip(*(member.read() for member in members), strict=True)
        if any(other != ids[0] for other in ids):
            folder = self.vectors_path.parent
            raise UserError(f"{folder}: the models do not describe the same images; delete it and run step 04")
        shape = len(ids[0]), sum(member.shape[1] for member in vectors)
        with atomic_path(self.vectors_path) as part:
            joined = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
            for start in range(0, shape[0], _ROWS):
                rows = slice(start, start + _ROWS)
                joined[rows] = concatenate([member[rows] for member in vectors], weights)
            joined.flush()
        skipped = read_table(members[0].skipped_path, ["id", "reason"])
        self.write_ids(ids[0], dict(skipped.itertuples(index=False)))

    def write_ids(self, ids: list[str], bad: dict[str, str]) -> None:
        """Write the ids of the vectors' rows, and the images left out, id -> reason."""
        with atomic_path(self.ids_path) as part:
            part.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
        write_table(self.skipped_path, pd.DataFrame(bad.items(), columns=["id", "reason"]))

    def read(self) -> tuple[np.ndarray, list[str]]:
        """The memory-mapped vectors and their ids."""
        vectors = np.load(self.vectors_path, mmap_mode="r", allow_pickle=False)
        return vectors, self.ids_path.read_text(encoding="utf-8").split()


def concatenate(members: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Weighted concatenation of unit-length members (N, D_i), of unit length again: (N, sum D_i) float32."""
    joined = np.concatenate([w * m.astype(np.float32) for m, w in zip(members, weights, strict=True)], axis=1)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
