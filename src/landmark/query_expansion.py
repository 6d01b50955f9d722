"""Query expansion, and the same on the database's side: descriptors that take in their nearest neighbours."""

import numpy as np


def expand(
    own: np.ndarray, database: np.ndarray, rows: np.ndarray, similarity: np.ndarray, alpha: float
) -> np.ndarray:
    """Each descriptor plus its nearest neighbours, weighted with max(similarity, 0) ** alpha: (B, D) float32.

    own: (B, D) of unit length, its weight is 1. database: (N, D), float16 or float32, in memory or memory-mapped.
    rows: (B, k) rows of the database nearest to each, -1 for none. similarity: (B, k) their cosines. The sum is
    brought to unit length; where it is zero (alpha 0 and opposite neighbours) the descriptor stays as it was.

    alpha 0 is average query expansion (Chum et al., ICCV 2007, section 3.2), in which all k weigh 1; alpha query
    expansion takes 3 (Radenović et al., TPAMI 2018, section 4.3). Database-side augmentation (Arandjelović and
    Zisserman, CVPR 2012, section 3; Gordo et al., IJCV 2017) is the same with the database itself as `own` and
    rows that leave out the image itself; by parts of the database it holds no more than by parts of the queries.

    Neighbour by neighbour, so that it holds a few B x D numbers and not B x k x D.
    """
    own = np.asarray(own, np.float32)
    weight = np.where(rows >= 0, np.maximum(similarity, 0).astype(np.float32) ** alpha, 0)
    expanded = own.copy()
    for place in range(rows.shape[1]):
        # A neighbour without weight is not read.
        near = np.flatnonzero(weight[:, place])
        vectors = np.asarray(database[rows[near, place]], np.float32)
        expanded[near] += weight[near, place, None] * vectors
    length = np.linalg.norm(expanded, axis=1, keepdims=True)
    return np.divide(expanded, length, out=own.copy(), where=length > 0)
