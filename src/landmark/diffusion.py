"""Re-ranking by diffusion on the graph of mutual neighbours (Iscen et al., CVPR 2017)."""

import numpy as np
from threadpoolctl import threadpool_limits

_IMAGES = 4096  # whose lists are compared at a time


class Graph:
    """The index images, each joined to those that are among its k nearest and have it among theirs.

    neighbours: (N, K) rows of the index nearest to each image, best first, the image itself not among them, -1 for
    none. similarity: (N, K) their cosines, of which the affinity is max(cosine, 0) ** gamma. It holds N x k bools
    and N degrees. Raises ValueError where K < k.
    """

    def __init__(self, neighbours: np.ndarray, similarity: np.ndarray, k: int, gamma: float):
        self.neighbours, self.similarity, self.k, self.gamma = neighbours, similarity, k, gamma
        self.mutual = _mutual(neighbours, k)
        self.degree = _degrees(similarity, self.mutual, gamma)


# Several threads wait for each other longer than such small systems take.
@threadpool_limits.wrap(limits=1, user_api="blas")
def diffuse(ranking: np.ndarray, similarity: np.ndarray, graph: Graph, k_query: int, alpha: float) -> np.ndarray:
    """Reorder each list by how much of the query reaches an image along the graph; ties keep their order.

    ranking: (Q, R) rows of the index, most similar first, -1 fills up a list with fewer. similarity: (Q, R) their
    cosines. Returns (Q, R) int64.

    With A the affinities of joined images and D the sums of its rows, S = D^-1/2 A D^-1/2. With y the affinities
    of the query's k_query nearest, (I - alpha S) f = y is solved, and f is the new score. Zhou et al., NIPS 2003
    (ranking on manifolds); Iscen et al., sections 3.1 and 3.2 (queries outside the index); k = 50, k_query = 10,
    gamma = 3 and alpha = 0.99 in use, alpha at least 0 and below 1.

    Each query's system is that of the images it retrieved, cut out after S is normalised ("late truncation", Yang
    et al., AAAI 2019), so that an image's edges to others still count in its degree. So small a system is
    solved directly: what a few more steps of conjugate gradients would bring decides the order of images far down
    the manifold. It holds R x R numbers for one query.
    """
    reranked = np.full(ranking.shape, -1, np.int64)
    for query in np.flatnonzero((ranking >= 0).any(axis=1)):
        retrieved = ranking[query][ranking[query] >= 0]
        start = _affinity(similarity[query, : len(retrieved)], graph.gamma)
        start[k_query:] = 0
        near = graph.neighbours[retrieved, : graph.k]
        row, place = np.nonzero(graph.mutual[retrieved] & np.isin(near, retrieved))
        image, other = retrieved[row], near[row, place]
        order = np.argsort(retrieved)
        column = order[np.searchsorted(retrieved, other, sorter=order)]
        system = np.eye(len(retrieved))
        affinity = _affinity(graph.similarity[image, place], graph.gamma)
        system[row, column] -= alpha * affinity / np.sqrt(graph.degree[image] * graph.degree[other])
        score = np.linalg.solve(system, start)
        reranked[query, : len(retrieved)] = retrieved[np.argsort(-score, kind="stable")]
    return reranked


def _affinity(cosine: np.ndarray, gamma: float) -> np.ndarray:
    return np.maximum(cosine, 0).astype(np.float64) ** gamma


def _mutual(neighbours: np.ndarray, k: int) -> np.ndarray:
    """Which of the k nearest neighbours have the image among their own k nearest: (N, k) bool."""
    if neighbours.shape[1] < k:
        raise ValueError(f"{k} neighbours are asked for and the lists have {neighbours.shape[1]}")
    mutual = np.empty((len(neighbours), k), bool)
    for start in range(0, len(neighbours), _IMAGES):
        lists = np.asarray(neighbours[start : start + _IMAGES, :k])
        image = np.arange(start, start + len(lists))
        for place in range(k):
            back = (neighbours[lists[:, place], :k] == image[:, None]).any(axis=1)
            mutual[image, place] = back & (lists[:, place] >= 0)
    return mutual


def _degrees(neighbour_similarity: np.ndarray, mutual: np.ndarray, gamma: float) -> np.ndarray:
    """Sums (N,) of each image's affinities in the whole graph; 1 for an image that has none to divide."""
    degree = np.zeros(len(mutual))
    # Neighbour by neighbour, so that it holds N numbers and not N x k.
    for place in range(mutual.shape[1]):
        degree += np.where(mutual[:, place], _affinity(neighbour_similarity[:, place], gamma), 0)
    degree[degree == 0] = 1
    return degree
