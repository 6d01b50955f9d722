"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), on neighbour lists, each query on its own."""

import numpy as np
from scipy.sparse import csr_array


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

    ranking: (Q, R) rows of the index, most similar first, -1 fills up a list with fewer. similarity: (Q, R) their
    cosines. neighbours: (N, K) rows of the index nearest to each index image, best first, the image itself not
    among them, -1 for none; neighbour_similarity: (N, K) their cosines. Returns (Q, R) int64. Raises ValueError
    where K < k1 or K < k2 - 1.

    The method is Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", sections 3.2 (k1,
    the neighbours that are mutual, and their own at k1 / 2), 3.3 (the Jaccard distance of their Gaussian weights),
    3.4 (k2, the image itself counted, over which encodings are averaged) and 3.5 (weight, the paper's lambda);
    k1 = 20, k2 = 6 and weight = 0.3 there. It gives the order of the authors' code for a pool of one query and the
    index, which lists of all N images (R = N, K = N - 1) reproduce wholly, except that

    - distances (squared, of unit vectors) are divided by 2, the authors' by that of the image's farthest one;
    - an image counts as its own nearest; the authors' code may put an exact copy before it;
    - where the encodings need the distance of two images that are not in each other's list, they count as similar
      as the last in these lists (1 where both are empty), and a query and an image that it did not retrieve as the
      last that it did;
    - the query is taken to be in no list of an image that it did not retrieve, and its own list to end with its
      ranking.

    The query is in an image's list of k where it is no less similar than the k-th neighbour, and then pushes that
    one out. Nothing grows with Q or N: for one query it holds about R * k2 * k1**3 / 4 numbers at the very most.
    """
    depth = neighbours.shape[1]
    if depth < max(k1, k2 - 1):
        raise ValueError(f"k1 is {k1}, k2 is {k2} and the lists have {depth} neighbours")
    reranked = np.full(ranking.shape, -1, np.int64)
    for query in np.flatnonzero((ranking >= 0).any(axis=1)):
        retrieved = ranking[query][ranking[query] >= 0]
        own = similarity[query, : len(retrieved)].astype(np.float64)
        pool = _Pool(retrieved, own, neighbours, neighbour_similarity)
        distance = (1 - weight) * _jaccard(pool, retrieved, k1, k2) + weight * (1 - own)
        reranked[query, : len(retrieved)] = retrieved[np.argsort(distance, kind="stable")]
    return reranked


class _Pool:
    """One query and the index. Its members are the rows of the index, then the query, whose number is N."""

    def __init__(
        self,
        retrieved: np.ndarray,
        similarity: np.ndarray,
        neighbours: np.ndarray,
        neighbour_similarity: np.ndarray,
    ):
        """retrieved: (R,) rows of the index, most similar first; similarity: (R,) their cosines."""
        self.query, depth = neighbours.shape
        self.neighbours, self.neighbour_similarity = neighbours, neighbour_similarity
        # The query takes its place in the lists of the images that it retrieved, before equally similar ones.
        near = np.column_stack([np.full(len(retrieved), self.query), neighbours[retrieved]])
        cosine = np.column_stack([similarity, neighbour_similarity[retrieved]])
        order = np.argsort(np.where(near < 0, np.inf, -cosine), axis=1, kind="stable")[:, :depth]
        own = np.full(depth, -1)
        own[: len(retrieved)] = retrieved[:depth]
        lists = np.vstack([np.take_along_axis(near, order, axis=1), own])
        members = np.append(retrieved, self.query)
        order = np.argsort(members)
        # The members whose lists are not those of the index alone, ascending; their cosines with the query.
        self.own_members, self.lists, self.similarity = (
            side[order] for side in (members, lists, np.append(similarity, 1))
        )
        self.last = similarity[-1]

    def place(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where members are among `own_members`, and whether they are."""
        place = np.searchsorted(self.own_members, members)
        return place, self.own_members[place] == members

    def nearest(self, members: np.ndarray, k: int) -> np.ndarray:
        """The k nearest of members (M,): (M, k) members, -1 for none."""
        near = self.neighbours[np.minimum(members, self.query - 1), :k]
        place, own = self.place(members)
        near[own] = self.lists[place[own], :k]
        return near

    def reciprocal(self, members: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k-reciprocal neighbours of members, themselves among them, as pairs (place in `members`, member)."""
        near = self.nearest(members, k)
        back = self.nearest(near.ravel(), k).reshape(*near.shape, k)
        mutual = (near >= 0) & (back == members[:, None, None]).any(axis=2)
        place = np.append(np.arange(len(members)), np.nonzero(mutual)[0])
        return place, np.append(members, near[mutual])

    def similarity_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Cosines of pairs of members (M,), as far as the lists have them, else of the last that they have."""
        image, other = np.minimum(first, second), np.maximum(first, second)
        similarity = np.ones(len(image))
        of_query = other == self.query
        place, retrieved = self.place(image[of_query])
        similarity[of_query] = np.where(retrieved, self.similarity[place], self.last)
        of_images = ~of_query & (image != other)
        similarity[of_images] = self._similarity_of_images(image[of_images], other[of_images])
        return similarity

    def _similarity_of_images(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        similarity = np.full(len(first), -np.inf)
        for image, other in ((first, second), (second, first)):
            pair, column = np.nonzero(self.neighbours[image] == other[:, None])
            similarity[pair] = self.neighbour_similarity[image[pair], column]
        unknown = similarity == -np.inf
        similarity[unknown] = np.minimum(self._last_of(first[unknown]), self._last_of(second[unknown]))
        return similarity

    def _last_of(self, images: np.ndarray) -> np.ndarray:
        known = np.where(self.neighbours[images] >= 0, self.neighbour_similarity[images], 1)
        return known.min(axis=1, initial=1)


def _jaccard(pool: _Pool, retrieved: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Jaccard distance (R,) of the query's encoding and those of the images that it retrieved (equation 10)."""
    members = np.append(pool.query, retrieved)
    near = np.column_stack([members, pool.nearest(members, k2 - 1)])
    row = np.nonzero(near >= 0)[0]
    encoded_members, column = np.unique(near[near >= 0], return_inverse=True)
    # Local query expansion: the mean encoding of the k2 nearest (equation 11).
    mean = csr_array((1 / np.bincount(row)[row], (row, column)), shape=(len(near), len(encoded_members)))
    encoded = mean @ _encode(pool, encoded_members, k1)
    own, others = encoded[[0]].toarray()[0], encoded[1:]
    others.data = np.minimum(others.data, own[others.indices])
    # An encoding sums to 1, so that the maxima sum to 2 less the minima.
    minima = others.sum(axis=1)
    return 1 - minima / (2 - minima)


def _encode(pool: _Pool, members: np.ndarray, k1: int) -> csr_array:
    """Encodings of members: Gaussian weights of their expanded k-reciprocal neighbours, rows that sum to 1.

    A k-reciprocal neighbour brings its own at k1 / 2 in where more than two thirds of them are neighbours already
    (equation 3). The columns are those members that are somebody's neighbour.
    """
    row, neighbour = pool.reciprocal(members, k1)
    candidates, candidate = np.unique(neighbour, return_inverse=True)
    row_of_half, column_of_half = pool.reciprocal(candidates, int(np.around(k1 / 2)))
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
    weights = np.exp(pool.similarity_of(members[row], columns[column]) - 1)
    weights /= np.bincount(row, weights)[row]
    return csr_array((weights, (row, column)), shape=expanded.shape)


def _sparse(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(row)), (row, column)), shape=shape)
