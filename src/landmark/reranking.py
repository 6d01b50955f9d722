"""Discriminative re-ranking ("rediscovered DQE"; arXiv 1906.04087, section 4)."""

from dataclasses import dataclass

import numpy as np

_QUERIES = 8192  # that are re-ranked at a time, so that memory does not grow with the number of queries


@dataclass(frozen=True)
class _Labelled:
    """The index images; `order` has their rows label by label, best score first, equal ones by row."""

    labels: np.ndarray
    scores: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> "_Labelled":
        return cls(labels, scores, np.lexsort((np.arange(len(labels)), -scores, labels)))


def discriminative_rerank(
    ranking: np.ndarray,
    query_labels: np.ndarray,
    query_scores: np.ndarray,
    index_labels: np.ndarray,
    index_scores: np.ndarray,
    insert_above: float | None,
    sort: bool = True,
) -> np.ndarray:
    """Move the images of the query's label to the front, then insert those that search did not find.

    ranking: (Q, R) rows of the index, best first; -1 fills up a list with fewer. query_labels, query_scores: (Q,);
    index_labels, index_scores: (N,): the soft votes of the nearest train images, scores already divided by K; a
    label below 0 is none. Returns (Q, R) int64 in the same form.

    Sort step: retrieved images with the query's label ("positives") come first, both groups in their old order.
    Insert step: index images with that label that were not retrieved follow the last positive, best score first,
    where query score + index score > insert_above (None leaves the step out). Without `sort` the positives stay
    where they are. Each list is cut to R again.
    """
    index = _Labelled.of(index_labels, index_scores)
    labels_in_order = index_labels[index.order]
    begin = np.searchsorted(labels_in_order, query_labels, side="left")
    count = np.searchsorted(labels_in_order, query_labels, side="right") - begin
    count[query_labels < 0] = 0
    reranked = np.full(ranking.shape, -1, np.int64)
    for start in range(0, len(ranking), _QUERIES):
        part = slice(start, start + _QUERIES)
        retrieved = ranking[part] >= 0
        positive = retrieved & (index_labels[ranking[part]] == query_labels[part, None])
        positive &= query_labels[part, None] >= 0
        if insert_above is None:
            query = image = np.zeros(0, np.int64)
        else:
            query, image = _candidates(index, begin[part], count[part], ranking.shape[1])
            confident = query_scores[part][query] + index_scores[image] > insert_above
            query, image = _not_retrieved(
                query[confident], image[confident], ranking[part], positive, len(index_labels)
            )
        front = positive if sort else np.logical_or.accumulate(positive[:, ::-1], axis=1)[:, ::-1]
        _put_together(reranked[part], ranking[part], front, retrieved & ~front, query, image)
    return reranked


def _candidates(
    index: _Labelled, begin: np.ndarray, count: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `most` index images of each query's label, as (query, image) pairs in the queries' order.

    More are never needed: as many as were retrieved of them, the list has no room for.
    """
    count = np.minimum(count, most)
    query = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    return query, index.order[begin[query] + place]


def _not_retrieved(
    query: np.ndarray, image: np.ndarray, ranking: np.ndarray, positive: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose image is not among the query's retrieved positives."""
    known = np.nonzero(positive)[0] * images + ranking[positive]
    new = ~np.isin(query * images + image, known)
    return query[new], image[new]


def _put_together(
    lists: np.ndarray,
    ranking: np.ndarray,
    front: np.ndarray,
    back: np.ndarray,
    query: np.ndarray,
    image: np.ndarray,
) -> None:
    """Fill `lists` (B, R): each query's front, then its inserted images, then its back, cut to R."""
    width = lists.shape[1]
    fronts, inserted = front.sum(axis=1), np.bincount(query, minlength=len(lists))
    place = np.where(front, np.cumsum(front, axis=1), (fronts + inserted)[:, None] + np.cumsum(back, axis=1))
    kept = (front | back) & (place <= width)
    lists[np.nonzero(kept)[0], place[kept] - 1] = ranking[kept]
    place = fronts[query] + np.arange(len(query)) - (np.cumsum(inserted) - inserted)[query]
    kept = place < width
    lists[query[kept], place[kept]] = image[kept]
