"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), on neighbour lists, each query on its own."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

_IMAGES = 4096  # whose lists are compared at a time
# Squared distance of unit vectors to the farthest image, which neighbour lists do not know: that of cosine 0.
_FARTHEST = 2.0


def mutual_neighbours(neighbours: np.ndarray, k: int) -> np.ndarray:
    """Which of the k nearest neighbours have the image among their own k nearest: (N, k) bool.

    neighbours: (N, K) rows nearest to each image, best first, the image itself not among them; -1 for none.
    Raises ValueError where K < k.
    """
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


def k_reciprocal_rerank(
    ranking: np.ndarray,
    similarity: np.ndarray,
    neighbours: np.ndarray,
    neighbour_similarity: np.ndarray,
    k1: int,
    k2: int,
    weight: float,
) -> np.ndarray:
    """Reorder each list by (1 - weight) * Jaccard distance + weight * distance; ties keep their order.

    ranking: (Q, R) rows of the index, most similar first, -1 fills up a list with fewer; R >= k1. similarity:
    (Q, R) their cosines. neighbours: (N, K) rows of the index nearest to each index image, best first, the image
    itself not among them, -1 for none; neighbour_similarity: (N, K) their cosines. Returns (Q, R) int64.
    Raises ValueError where K < k1 or K < k2 - 1.

    The method is Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", sections 3.2 (k1,
    the neighbours that are mutual, and their own at k1 / 2), 3.3 (the Jaccard distance of their Gaussian weights),
    3.4 (k2, the image itself counted, over which encodings are averaged) and 3.5 (weight, the paper's lambda);
    k1 = 20, k2 = 6 and weight = 0.3 there. It gives the order of the authors' code for a pool of one query and the
    index, which lists of all N images (R = N, K = N - 1) reproduce wholly, except that

    - distances (squared, of unit vectors) are divided by 2, the authors' by that of the image's farthest one;
    - an image counts as its own nearest; the authors' code may put an exact copy before it;
    - two images that are not in each other's list count as similar as the last in these lists (a query and an
      image that it did not retrieve: as its last one), where the encodings need the distance of neighbours of
      neighbours;
    - the query is taken to be in no list of an image that it did not retrieve.

    The query is in an image's list of k where it is no less similar than the k-th neighbour, and then pushes that
    one out. So nothing grows with Q x Q or N x N: it holds N x (3/2 k1) bools, and for one query about
    (R * k2) * (2 k1) * K numbers at the very most.
    """
    half = int(np.around(k1 / 2))
    if neighbours.shape[1] < k2 - 1:
        raise ValueError(f"k2 is {k2} and the lists have {neighbours.shape[1]} neighbours")
    mutual = {k: mutual_neighbours(neighbours, k) for k in (k1, half)}
    reranked = np.full(ranking.shape, -1, np.int64)
    for query in np.flatnonzero((ranking >= 0).any(axis=1)):
        retrieved = ranking[query][ranking[query] >= 0]
        own = similarity[query, : len(retrieved)].astype(np.float64)
        pool = _Pool(retrieved, own, neighbours, neighbour_similarity, mutual)
        distance = (1 - weight) * _jaccard(pool, k1, half, k2) + weight * _distance(own)
        reranked[query, : len(retrieved)] = retrieved[np.argsort(distance, kind="stable")]
    return reranked


def _distance(cosine: np.ndarray) -> np.ndarray:
    return (2 - 2 * cosine) / _FARTHEST


@dataclass(frozen=True)
class _Pool:
    """One query and the index. Its members are the rows of the index, then the query, whose number is N."""

    retrieved: np.ndarray  # (R,) rows of the index, most similar first
    similarity: np.ndarray  # (R,)
    neighbours: np.ndarray
    neighbour_similarity: np.ndarray
    mutual: dict[int, np.ndarray]  # `mutual_neighbours` of the index alone, by k

    @property
    def query(self) -> int:
        return len(self.neighbours)

    def has_query(self, k: int) -> np.ndarray:
        """Which retrieved images have the query among their k nearest: (R,) bool."""
        if k == 0:
            return np.zeros(len(self.retrieved), bool)
        last = self.neighbours[self.retrieved, k - 1]
        return (last < 0) | (self.similarity >= self.neighbour_similarity[self.retrieved, k - 1])

    def nearest(self, k: int) -> np.ndarray:
        """The query, then the retrieved images, each with its k nearest: (1 + R, 1 + k) members, -1 for none."""
        near = np.full((1 + len(self.retrieved), 1 + k), -1, np.int64)
        near[0, 0], near[1:, 0] = self.query, self.retrieved
        near[0, 1 : 1 + len(self.retrieved)] = self.retrieved[:k]
        near[1:, 1:] = self.neighbours[self.retrieved, :k]
        near[1:][self.has_query(k), k] = self.query
        return near

    def reciprocal(self, members: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k-reciprocal neighbours of members, themselves among them, as pairs (place in `members`, member).

        members: ascending, the query and all retrieved images among them.
        """
        images = members[:-1]
        lists, mutual = self.neighbours[images, :k], self.mutual[k][images]
        has_query = self.has_query(k)
        holder = self.retrieved[has_query]
        pushed_out = self.neighbours[holder, k - 1]
        for image, lost in ((holder, pushed_out), (pushed_out, holder)):
            known = np.isin(image, images)
            place = np.searchsorted(images, image[known])
            which, column = np.nonzero(lists[place] == lost[known, None])
            mutual[place[which], column] = False
        place, column = np.nonzero(mutual)
        gained = self.retrieved[:k][has_query[:k]]
        sides = (
            (np.arange(len(members)), members),
            (place, lists[place, column]),
            (np.searchsorted(members, gained), np.full(len(gained), self.query)),
            (np.full(len(gained), len(images)), gained),
        )
        return tuple(np.concatenate(side) for side in zip(*sides, strict=True))

    def similarity_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Cosines of pairs of members (M,), as far as the lists have them, else of the last that they have."""
        similarity = np.empty(len(first))
        of_query = (first == self.query) | (second == self.query)
        other = np.minimum(first, second)[of_query]
        match = other[:, None] == self.retrieved
        similarity[of_query] = np.where(
            match.any(axis=1), self.similarity[match.argmax(axis=1)], self.similarity[-1]
        )
        similarity[~of_query] = self._similarity_of_images(first[~of_query], second[~of_query])
        similarity[first == second] = 1
        return similarity

    def _similarity_of_images(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        last = self.neighbour_similarity[:, -1]
        similarity = np.minimum(last[first], last[second]).astype(np.float64)
        for image, other in ((second, first), (first, second)):
            pair, place = np.nonzero(self.neighbours[image] == other[:, None])
            similarity[pair] = self.neighbour_similarity[image[pair], place]
        return similarity


def _jaccard(pool: _Pool, k1: int, half: int, k2: int) -> np.ndarray:
    """Jaccard distance (R,) of the query's encoding and those of its retrieved images (equation 10)."""
    near = pool.nearest(k2 - 1)
    members = np.unique(near[near >= 0])
    # Local query expansion: the mean encoding of the k2 nearest (equation 11).
    row, column = np.nonzero(near >= 0)
    mean = _sparse(row, np.searchsorted(members, near[row, column]), (len(near), len(members)))
    encoded = mean @ _encode(pool, members, k1, half)
    encoded.data /= np.repeat(mean.sum(axis=1), np.diff(encoded.indptr))
    own, others = encoded[[0]].toarray()[0], encoded[1:]
    others.data = np.minimum(others.data, own[others.indices])
    # An encoding sums to 1, so that the maxima sum to 2 less the minima.
    minima = others.sum(axis=1)
    return 1 - minima / (2 - minima)


def _encode(pool: _Pool, members: np.ndarray, k1: int, half: int) -> csr_array:
    """Encodings of members: Gaussian weights of their expanded k-reciprocal neighbours, rows that sum to 1.

    A k-reciprocal neighbour brings its own at k1 / 2 in where more than two thirds of them are neighbours already
    (equation 3). The columns are those members that are somebody's neighbour.
    """
    row, neighbour = pool.reciprocal(members, k1)
    candidates, candidate = np.unique(neighbour, return_inverse=True)
    row_of_half, column_of_half = pool.reciprocal(candidates, half)
    # Every candidate is its own neighbour, and so among the columns.
    columns, column = np.unique(column_of_half, return_inverse=True)
    of_candidate = _sparse(row_of_half, column, (len(candidates), len(columns)))
    brings = _sparse(row, candidate, (len(members), len(candidates)))
    expanded = _sparse(row, np.searchsorted(columns, neighbour), (len(members), len(columns)))
    shared = (expanded @ of_candidate.T * brings).tocsr()
    size = np.diff(of_candidate.indptr)
    shared.data = (3 * shared.data > 2 * size[shared.indices]).astype(np.float64)
    expanded = (expanded + shared @ of_candidate).tocoo()
    row, column = expanded.row[expanded.data > 0], expanded.col[expanded.data > 0]
    weights = np.exp(-_distance(pool.similarity_of(members[row], columns[column])))
    weights /= np.bincount(row, weights)[row]
    return csr_array((weights, (row, column)), shape=expanded.shape)


def _sparse(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(row)), (row, column)), shape=shape)
