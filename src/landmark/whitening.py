"""PCA-whitening of descriptors (Jégou and Chum, ECCV 2012), learned on the train set."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from landmark.errors import UserError
from landmark.parallel import cores, ordered_map
from landmark.store import atomic_path

# A component with less than this share of the first one's variance is rounding, which whitening would blow up.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Whitening:
    """mean (D,) and projection (D, dim), float32."""

    mean: np.ndarray
    projection: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (N, D) -> their whitened first components, brought to unit length: (N, dim) float32."""
        # How a matrix is cut among the threads of one product shows in the last bit.
        with threadpool_limits(1, user_api="blas"):
            whitened = (vectors - self.mean) @ self.projection
        return whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-12)

    def write(self, path: Path) -> None:
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, mean=self.mean, projection=self.projection)


def read_whitening(path: Path) -> Whitening:
    with np.load(path, allow_pickle=False) as arrays:
        return Whitening(arrays["mean"], arrays["projection"])


def learn_whitening(blocks: Iterable[np.ndarray], dim: int) -> Whitening:
    """The whitening to `dim` numbers that blocks (n, D) of vectors teach; it holds some blocks and D x D numbers.

    Projected vectors have mean 0 and the identity for covariance. Raises UserError where the vectors vary in fewer
    directions than `dim`.
    """
    count, total, products = 0, 0.0, 0.0

    def moments(block: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        block = block.astype(np.float64)
        return len(block), block.sum(axis=0), block.T @ block

    with threadpool_limits(1, user_api="blas"):
        for rows, block_total, block_products in ordered_map(moments, blocks, cores(), ahead=1):
            count, total, products = count + rows, total + block_total, products + block_products
        mean = total / count
        variance, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    variance, directions = variance[::-1], directions[:, ::-1]
    known = int((variance > _NOTHING * max(variance[0], 0)).sum())
    if dim > known:
        raise UserError(
            f"ensemble.whiten: {dim} is too many; {count} train descriptors of {len(mean)} numbers vary in {known}"
            " directions"
        )
    projection = directions[:, :dim] / np.sqrt(variance[:dim])
    return Whitening(mean.astype(np.float32), projection.astype(np.float32))
