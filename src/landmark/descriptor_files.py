"""Descriptors on disk, and their concatenation to an ensemble."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import read_table, write_table
from landmark.errors import UserError
from landmark.store import atomic_path
from landmark.whitening import Whitening

_ROWS = 16_384  # that are joined at a time: 0.2 GB at 3072 numbers
_BLOCK = 4_096  # that whitening learns from at a time


class DescriptorFile:
    """Descriptors of one split on disk.

    <split>.npy (N, D) float16; <split>.txt, N ids, one a line; <split>.skipped.csv, id and reason of the images
    left out.
    """

    def __init__(self, folder: Path, split: str):
        self.vectors_path, self.ids_path = folder / f"{split}.npy", folder / f"{split}.txt"
        self.skipped_path = folder / f"{split}.skipped.csv"
        self.paths = [self.vectors_path, self.ids_path, self.skipped_path]

    def write_joined(self, ensemble: "EnsembleFiles", whitening: Whitening | None = None) -> None:
        """Write the ensemble's descriptors, whitened where there is a whitening, some rows at a time."""
        first = ensemble.members[0]
        with atomic_path(self.vectors_path) as part:
            joined = None
            for start in range(0, len(ensemble.ids), _ROWS):
                rows = slice(start, start + _ROWS)
                vectors = ensemble.read(rows)
                if whitening:
                    vectors = whitening.apply(vectors)
                if joined is None:
                    shape = len(ensemble.ids), vectors.shape[1]
                    joined = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
                joined[rows] = vectors
            joined.flush()
        skipped = read_table(first.skipped_path, ["id", "reason"])
        self.write_ids(ensemble.ids, dict(skipped.itertuples(index=False)))

    def write_ids(self, ids: list[str], bad: dict[str, str]) -> None:
        """Write the ids of the vectors' rows, and the images left out, id -> reason."""
        with atomic_path(self.ids_path) as part:
            part.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
        write_table(self.skipped_path, pd.DataFrame(bad.items(), columns=["id", "reason"]))

    def read(self) -> tuple[np.ndarray, list[str]]:
        """The memory-mapped vectors and their ids."""
        vectors = np.load(self.vectors_path, mmap_mode="r", allow_pickle=False)
        return vectors, self.ids_path.read_text(encoding="utf-8").split()


class EnsembleFiles:
    """The descriptors of one split by several models, weighted. Raises UserError if their images differ."""

    def __init__(self, members: list[DescriptorFile], weights: list[float]):
        self.members, self._weights = members, weights
        self._vectors, (self.ids, *others) = zip(*(member.read() for member in members), strict=True)
        if any(other != self.ids for other in others):
            folder = members[0].vectors_path.parents[1]
            raise UserError(f"{folder}: the models do not describe the same images; delete it and run step 04")

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """The concatenated descriptors of some rows: (n, sum of D_i) float32."""
        return concatenate([member[rows] for member in self._vectors], self._weights)

    def sample(self, most: int) -> Iterator[np.ndarray]:
        """Blocks of the descriptors of at most `most` rows that lie evenly in the split."""
        count = len(self.ids)
        chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
        return (self.read(chosen[start : start + _BLOCK]) for start in range(0, len(chosen), _BLOCK))


def concatenate(members: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Weighted concatenation of unit-length members (N, D_i), of unit length again: (N, sum D_i) float32."""
    joined = np.concatenate([w * m.astype(np.float32) for m, w in zip(members, weights, strict=True)], axis=1)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
