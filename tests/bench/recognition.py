"""Recognition at the size of 2019 but for RANSAC itself: votes, and how many pairs have to be verified.

    python tests/bench/recognition.py     one minute on 2 cores

Made of chance in the shape of GLDv2: 117,577 test images, most of which show no landmark, with 3 neighbours (or
as many as --refine says) each among train images of 81,313 labels. A landmark's pairs have many inliers, others
few by chance.
The peer votes image by image with every pair verified; both give the same labels and scores.
"""

import argparse
import json
import time

import numpy as np
from common import peak_gib

from landmark.gallery import Gallery
from landmark.recognition import predict, verified
from landmark.retrieval_settings import Recognition

TESTS, TRAIN, LABELS = 117_577, 1_580_470, 81_313


def make(rng: np.random.Generator, k: int, landmarks: float) -> tuple[np.ndarray, Gallery, np.ndarray]:
    """Neighbours (T, k), the gallery, and what verification would count (T, k)."""
    gallery = Gallery(np.zeros((TRAIN, 0)), np.sort(rng.integers(0, LABELS, TRAIN)), np.arange(TRAIN))
    found = np.empty((TESTS, k), [("row", np.int64), ("similarity", np.float32)])
    found["row"] = rng.integers(0, TRAIN, (TESTS, k))
    # A landmark's images stand together in the gallery.
    shows = rng.random(TESTS) < landmarks
    own = shows[:, None] & (rng.random((TESTS, k)) < 0.7)
    base = rng.integers(0, TRAIN - 20, TESTS)
    found["row"][own] = (base[:, None] + rng.integers(0, 20, (TESTS, k)))[own]
    # An image is found once: a second time it becomes another.
    order = np.sort(found["row"], axis=1)
    while (twice := (np.diff(order, axis=1) == 0).any(axis=1)).any():
        found["row"][twice] = rng.integers(0, TRAIN, (twice.sum(), k))
        order = np.sort(found["row"], axis=1)
    high = np.where(shows, 0.95, 0.75)[:, None]
    found["similarity"] = -np.sort(-rng.uniform(high - 0.35, high, (TESTS, k)), axis=1)
    inliers = np.where(own, rng.integers(5, 150, (TESTS, k)), rng.integers(0, 12, (TESTS, k)))
    return found, gallery, inliers


def by_images(found: np.ndarray, inliers: np.ndarray, gallery: Gallery, settings: Recognition) -> list[tuple]:
    """Label and score of each image, the obvious way."""
    answers = []
    for neighbours, counts in zip(found, inliers, strict=True):
        terms = 2 * neighbours["similarity"] - 1 + np.minimum(counts, settings.inlier_cap) / settings.inlier_cap
        order = np.argsort(-terms, kind="stable") if settings.refine else np.arange(len(terms))
        sums: dict[int, float] = {}
        for place in order[: settings.vote_neighbours]:
            label = int(gallery.labels[neighbours["row"][place]])
            sums[label] = sums.get(label, 0.0) + terms[place]
        answers.append(max(sums.items(), key=lambda item: item[1]))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refine", type=int, help="vote among so many neighbours")
    parser.add_argument("--landmarks", type=float, default=0.02, help="share of the test images that show one")
    parser.add_argument("--slice", type=int, default=5_000, help="images of the peer")
    arguments = parser.parse_args()
    settings = Recognition(refine=arguments.refine)
    found, gallery, inliers = make(
        np.random.default_rng(0), arguments.refine or settings.vote_neighbours, arguments.landmarks
    )

    def count(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # What was asked for, by place; RANSAC would count it.
        place = (found["row"][query] == rows[:, None]).argmax(axis=1)
        return inliers[query, place]

    begin = time.perf_counter()
    counted = verified(found, gallery, settings, count)
    labels, scores, _ = predict(found, counted, gallery, settings)
    seconds = time.perf_counter() - begin
    peak = peak_gib()
    some = slice(0, arguments.slice)
    begin = time.perf_counter()
    theirs = by_images(found[some], inliers[some], gallery, settings)
    per_image = (time.perf_counter() - begin) / arguments.slice
    same = [label for label, _ in theirs] == labels[some].tolist()
    same = same and np.allclose([score for _, score in theirs], scores[some], rtol=1e-6)
    share = (counted >= 0).mean()
    print(f"{TESTS} test images x {found.shape[1]} neighbours, {LABELS} labels")
    print(f"  ours            {seconds:7.2f} s")
    print(f"  image by image  {per_image * TESTS:7.2f} s ({arguments.slice} run)")
    print(f"  pairs to verify {share:7.1%}; the same labels and scores: {same}")
    figures = {"seconds": round(seconds, 2), "speedup": round(per_image * TESTS / seconds, 1)}
    print(json.dumps({**figures, "pairs_share": round(float(share), 4), "peak_gib": round(peak, 2), "same": same}))


if __name__ == "__main__":
    main()
