"""Votes and discriminative re-ranking at the size of 2019, beside a loop over the rows of pandas frames.

    python tests/bench/reranking.py     one minute on 2 cores

Made of chance in the shape of GLDv2: 117,577 queries with 100 of 761,757 index images each; 3 voting train images
for each query and index image, of 81,313 labels with a long tail. Every second query shows one of the labels, and
half of its list does too. Ours votes and re-ranks all; the loop re-ranks `--slice` queries, given the votes. Both
give the same lists there.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd
from common import peak_gib

from landmark.reranking import discriminative_rerank
from landmark.voting import soft_labels

QUERIES, INDEX, LABELS, TOP, VOTERS = 117_577, 761_757, 81_313, 100, 3
INSERT_ABOVE = 0.6


def make(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """ranking (Q, 100), and cosines and labels (·, 3) of the voters of queries and index images."""
    weights = np.arange(1, LABELS + 1) ** -0.6
    index = rng.choice(LABELS, INDEX, p=weights / weights.sum())
    order = np.argsort(index, kind="stable")
    begin, count = np.searchsorted(index[order], np.arange(LABELS)), np.bincount(index, minlength=LABELS)
    label = rng.choice(LABELS, QUERIES, p=weights / weights.sum())
    ranking = rng.integers(0, INDEX, (QUERIES, TOP), dtype=np.int32)
    own = (rng.random((QUERIES, TOP)) < 0.5) & (np.arange(QUERIES) % 2 == 0)[:, None] & (count[label] > 0)[:, None]
    place = begin[label][:, None] + rng.integers(0, 2**31, (QUERIES, TOP)) % np.maximum(count[label], 1)[:, None]
    ranking[own] = order[place[own]]
    # An image is retrieved once: a second time it becomes another.
    ranking.sort(axis=1)
    again = np.zeros(ranking.shape, bool)
    again[:, 1:] = ranking[:, 1:] == ranking[:, :-1]
    ranking[again] = -1
    ranking = rng.permuted(ranking, axis=1)
    ranking = np.take_along_axis(ranking, np.argsort(ranking < 0, axis=1, kind="stable"), axis=1)
    voters = []
    for truth in (label, index):
        labels = np.repeat(truth[:, None], VOTERS, axis=1).astype(np.int32)
        wrong = rng.random(labels.shape) < 0.3
        labels[wrong] = rng.integers(0, LABELS, wrong.sum())
        voters += [-np.sort(-rng.uniform(0.4, 1, labels.shape).astype(np.float32), axis=1), labels]
    return ranking, *voters


def by_rows(ranking: np.ndarray, queries: pd.DataFrame, index: pd.DataFrame) -> list[list[int]]:
    """The same, row by row: the straightforward way in pandas, as competitors write it."""
    lists = []
    for place, query in queries.iterrows():
        retrieved = [row for row in ranking[place] if row >= 0]
        positive = [row for row in retrieved if index.at[row, "label"] == query.label]
        negative = [row for row in retrieved if index.at[row, "label"] != query.label]
        same = index[index.label == query.label]
        same = same[~same.index.isin(retrieved) & (same.score + query.score > INSERT_ABOVE)]
        inserted = same.sort_values("score", ascending=False, kind="stable").index.tolist()
        lists.append((positive + inserted + negative)[:TOP])
    return lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slice", type=int, default=500, help="queries of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ranking, query_cosine, query_voters, index_cosine, index_voters = make(np.random.default_rng(0))
    seconds = []
    for _ in range(arguments.rounds):
        begin = time.perf_counter()
        query_labels, query_scores = soft_labels(query_cosine, query_voters)
        index_labels, index_scores = soft_labels(index_cosine, index_voters)
        voted = time.perf_counter()
        ours = discriminative_rerank(ranking, query_labels, query_scores, index_labels, index_scores, INSERT_ABOVE)
        ended = time.perf_counter()
        seconds.append((ended - begin, voted - begin, ended - voted))
    peak = peak_gib()
    whole, votes, rerank = min(seconds)
    queries = pd.DataFrame({"label": query_labels, "score": query_scores})
    index = pd.DataFrame({"label": index_labels, "score": index_scores})
    begin = time.perf_counter()
    theirs = by_rows(ranking, queries[: arguments.slice], index)
    per_query = (time.perf_counter() - begin) / arguments.slice
    same = all(row[row >= 0].tolist() == other for row, other in zip(ours, theirs, strict=False))
    print(f"{QUERIES} queries x {TOP}, {INDEX} index images, {LABELS} labels")
    print(f"  ours         {whole:8.2f} s: votes {votes:.2f} s, re-ranking {rerank:.2f} s")
    print(f"  row by row   {per_query * QUERIES:8.0f} s ({per_query * 1e3:.1f} ms a query, {arguments.slice} run)")
    print(f"  the same lists: {same}; {(ours != ranking).any(axis=1).mean():.0%} of the lists change")
    figures = {
        "seconds": round(whole, 2),
        "speedup": round(per_query * QUERIES / rerank),
        "peak_gib": round(peak, 2),
    }
    print(json.dumps({**figures, "same": same}))


if __name__ == "__main__":
    main()
