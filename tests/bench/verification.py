"""Spatial verification beside the authors' way: pairs per second, and the true-positive rate at few false ones.

    python tests/bench/verification.py
    python tests/bench/verification.py --delf input/RUN-bootstrap/models/delf.pt

Ours: landmark.verification (mutual nearest neighbours, ratio test, MAGSAC++). The authors': matches within 0.8 by
cKDTree, then skimage's RANSAC of an affine transform (3 samples, residual 20, 1000 trials). Both get the same
RootSIFT features and the same pairs: right ones show the same landmark under right labels, wrong ones different
landmarks. With --delf FILE the DELF that step 02 trained, for example in the bootstrap round of recipe photos
(src/01_clean.py, then src/02_train.py, with --round bootstrap), stands beside RootSIFT.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
from common import photographs, train_images
from scipy.spatial import cKDTree
from skimage.measure import ransac
from skimage.transform import AffineTransform

from landmark.local_features import LocalFeatures, extract_local, open_extractor
from landmark.parallel import cores
from landmark.settings import LocalFeatureSettings, VerificationSettings
from landmark.verification import count_inliers, one_blas_thread, verify

# Each kind of feature with the settings that served it best on monuments.
ROOTSIFT = LocalFeatureSettings(features="rootsift", max_points=800, longest_side=640)
ROOTSIFT_VERIFIED = VerificationSettings(ratio=0.85, model="homography", threshold=6)
DELF = LocalFeatureSettings(features="delf", max_points=1000, longest_side=512)
DELF_VERIFIED = VerificationSettings(ratio=0.95, model="affine", threshold=16)


def authors_inliers(a: LocalFeatures, b: LocalFeatures) -> int:
    """The count of the authors' public repository; seeded, as theirs is not."""
    distance, nearest = cKDTree(b.descriptors).query(a.descriptors, distance_upper_bound=0.8)
    found = np.isfinite(distance)
    if found.sum() <= 3:
        return 0
    sides = a.points[found], b.points[nearest[found]]
    _, inliers = ransac(sides, AffineTransform, min_samples=3, residual_threshold=20, max_trials=1000, rng=0)
    return 0 if inliers is None else int(inliers.sum())


def draw_pairs(labels: np.ndarray, wrong_pairs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of one landmark (R, 2), and as many random pairs of two landmarks as asked for."""
    right = np.array([p for p in combinations(range(len(labels)), 2) if labels[p[0]] == labels[p[1]]])
    drawn = rng.integers(len(labels), size=(4 * wrong_pairs, 2))
    wrong = np.unique(np.sort(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]], axis=1), axis=0)
    return right, rng.permutation(wrong)[:wrong_pairs]


def rate(right: np.ndarray, wrong: np.ndarray, false_rate: float) -> tuple[float, int]:
    """The share of right pairs at the lowest count of inliers that at most `false_rate` of the wrong reach."""
    threshold = int(np.sort(wrong)[::-1][int(false_rate * len(wrong))]) + 1
    return float((right >= threshold).mean()), threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLDv2 layout with label_noise.csv; default: monuments")
    parser.add_argument("--delf", type=Path, help="a DELF checkpoint of step 02")
    parser.add_argument("--per-landmark", type=int, default=8, help="photographs of each landmark")
    parser.add_argument("--wrong-pairs", type=int, default=6000)
    parser.add_argument(
        "--authors-pairs", type=int, default=1000, help="wrong pairs that the authors' way gets too"
    )
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with photographs(arguments.data) as data:
        frame = train_images(data)
        frame = frame[~frame["wrong"]].groupby("landmark_id").head(arguments.per_landmark)
        paths = list(enumerate(frame["path"]))
        right, wrong = draw_pairs(frame["landmark_id"].to_numpy(), arguments.wrong_pairs, rng)
        kinds = {"RootSIFT": (ROOTSIFT, ROOTSIFT_VERIFIED, None)}
        if arguments.delf:
            kinds["DELF"] = (DELF, DELF_VERIFIED, arguments.delf)
        table = [("features, verification", "s/image", "tpr at 0.1 %", "from", "tpr at 1 %", "from")]
        for name, (local, verification, weights) in kinds.items():
            begin = time.monotonic()
            features = extract_local(paths, local, open_extractor(local, weights, "cpu"), cores())
            seconds = (time.monotonic() - begin) / len(paths)
            counts = [count_inliers(pairs, features, features, verification, cores()) for pairs in (right, wrong)]
            table.append(row(f"{name}, ours", seconds, *counts))
            if name == "RootSIFT":
                sift = features
    few = wrong[: arguments.authors_pairs]
    speeds = compare_speed(sift, rng.permutation(np.concatenate([right, few]))[:60])
    some = rng.permutation(right)[:200]
    with ProcessPoolExecutor(cores()) as pool:
        theirs = [
            np.array(list(pool.map(authors_inliers, *([sift[i] for i in side] for side in pairs.T), chunksize=8)))
            for pairs in (some, few)
        ]
    ours_on_same = [count_inliers(p, sift, sift, ROOTSIFT_VERIFIED, cores()) for p in (some, few)]
    table.append(row("RootSIFT, ours, on the authors' pairs", None, *ours_on_same))
    table.append(row("RootSIFT, the authors' way", None, *theirs))
    for line in table:
        print("  ".join(f"{value:>12}" if column else f"{value:<38}" for column, value in enumerate(line)))
    ours, their = speeds
    print(f"{len(right)} right and {len(wrong)} wrong pairs, the authors' way {len(some)} and {len(few)}")
    print(f"pairs per second on one core: ours {ours:.0f}, the authors' way {their:.2f}")
    figures = {
        "speedup": round(ours / their, 1),
        "tpr_ours": round(rate(*ours_on_same, 0.001)[0], 4),
        "tpr_theirs": round(rate(*theirs, 0.001)[0], 4),
    }
    print(json.dumps(figures))


def compare_speed(features: dict[int, LocalFeatures], pairs: np.ndarray) -> tuple[float, float]:
    """Pairs per second of one thread, ours and theirs, taken in turn ten pairs at a time."""
    spent = [0.0, 0.0]
    with one_blas_thread():
        for part in np.array_split(pairs, max(1, len(pairs) // 10)):
            for which in (0, 1):
                begin = time.monotonic()
                for i, j in part:
                    if which == 0:
                        verify(features[i], features[j], ROOTSIFT_VERIFIED)
                    else:
                        authors_inliers(features[i], features[j])
                spent[which] += time.monotonic() - begin
    return len(pairs) / spent[0], len(pairs) / spent[1]


def row(name: str, seconds: float | None, right: np.ndarray, wrong: np.ndarray) -> tuple:
    cells = [f"{seconds:.3f}" if seconds else ""]
    for false_rate in (0.001, 0.01):
        share, threshold = rate(right, wrong, false_rate)
        cells += [f"{share:.3f}", f">= {threshold}"]
    return name, *cells


if __name__ == "__main__":
    main()
