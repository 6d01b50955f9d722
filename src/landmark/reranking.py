"""Discriminative re-ranking ("rediscovered DQE"; arXiv 1906.04087, section 4)."""

import numpy as np


def discriminative_rerank(
    ranking: np.ndarray,
    query_labels: np.ndarray,
    query_scores: np.ndarray,
    index_labels: np.ndarray,
    index_scores: np.ndarray,
    insert_above: float | None,
) -> list[np.ndarray]:
    """Move the images of the query's label to the front, then insert those that search did not find.

    ranking: (Q, R) rows of the index, best first. query_labels, query_scores: (Q,); index_labels, index_scores:
    (N,): the soft votes of the nearest train images, scores already divided by K.
    Sort step: retrieved images with the query's label come first, both groups in their old order. Insert step:
    index images with that label that were not retrieved follow the positives, best score first, where query
    score + index score > insert_above (None leaves the step out). Each list is cut to R again.
    """
    # Per label its index images, best score first; equal scores by row.
    order = np.lexsort((np.arange(len(index_labels)), -index_scores, index_labels))
    labels_in_order = index_labels[order]
    begin = np.searchsorted(labels_in_order, query_labels, side="left")
    end = np.searchsorted(labels_in_order, query_labels, side="right")
    reranked = []
    for q, retrieved in enumerate(ranking):
        positive = index_labels[retrieved] == query_labels[q]
        inserted = retrieved[:0]
        if insert_above is not None:
            candidates = order[begin[q] : end[q]]
            confident = query_scores[q] + index_scores[candidates] > insert_above
            inserted = candidates[confident & ~np.isin(candidates, retrieved)]
        new = np.concatenate([retrieved[positive], inserted, retrieved[~positive]])
        reranked.append(new[: ranking.shape[1]])
    return reranked
