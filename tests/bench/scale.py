"""Time and memory of the neighbour and pair-planning stages of step 01, on descriptors with GLDv2's long tail.

    python tests/bench/scale.py                               125,000 and 250,000 images; 12 minutes on 2 cores
    python tests/bench/scale.py --images 1000000 --folder F   goes on in F where it was stopped
    python tests/bench/scale.py --images 1000000 --blocks 3   three blocks of queries against all images

Labels: 203,094 that sum to the 4,132,914 images of GLDv2, log-normal as these, the largest above 10,000; of these
whole labels are taken, the largest first and then at random, until there are as many images as asked for.
Descriptors: 512 numbers, float16 on disk, an image near its label's centre or, one in three, near another's.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT  # noqa: F401 (puts src on the path)
from scipy.stats import norm

from landmark.cleaning import count_neighbours, pairs_of, rows_by_label, within_label
from landmark.neighbours import same_label, top_k
from landmark.parts import Parts
from landmark.progress import track
from landmark.ranks import Ranks
from landmark.settings import Cleaning

IMAGES, LABELS, LARGEST, DIM = 4_132_914, 203_094, 10_500, 512
WRONG = 1 / 3
# Of an image around its centre: two images of a centre have the cosine 1 / (1 + SPREAD**2) at the mean.
SPREAD = 1.0


def label_sizes() -> np.ndarray:
    """(LABELS,) sizes, largest first: log-normal, but for the largest; they sum to IMAGES.

    With a median of 8, 37 % of the labels have at most 5 images and 57 % at most 10, as in GLDv2 (Weyand et al.,
    CVPR 2020: 38 % and 57 %).
    """
    quantile = norm.isf((np.arange(LABELS) + 0.5) / LABELS)

    def of(deviation: float) -> np.ndarray:
        sizes = np.maximum(1, np.round(8 * np.exp(deviation * quantile))).astype(np.int64)
        sizes[0] = LARGEST
        return sizes

    low, high = 1.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle).sum() > IMAGES else (middle, high)
    sizes = of(low)
    sizes[1 : 1 + IMAGES - sizes.sum()] += 1
    return sizes


def make(folder: Path, images: int, seed: int = 0) -> None:
    """Write labels.npy (N,) and vectors.npy (N, DIM) float16."""
    rng = np.random.default_rng(seed)
    sizes = label_sizes()
    order = np.concatenate([[0], 1 + rng.permutation(LABELS - 1)])
    labels = np.repeat(order, sizes[order])[:images]
    labels = rng.permutation(labels)
    present = np.unique(labels, return_inverse=True)[1]
    centres = rng.normal(size=(present.max() + 1, DIM)).astype(np.float32)
    np.save(folder / "labels.npy", labels)
    half_way = folder / "half.npy"
    vectors = np.lib.format.open_memmap(half_way, "w+", np.float16, (images, DIM))
    for start in range(0, images, 65_536):
        near = present[start : start + 65_536].copy()
        wrong = rng.random(len(near)) < WRONG
        near[wrong] = rng.integers(len(centres), size=wrong.sum())
        block = centres[near] + SPREAD * rng.normal(size=(len(near), DIM)).astype(np.float32)
        vectors[start : start + len(near)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    half_way.rename(folder / "vectors.npy")


def measure(folder: Path, memory_gib: float, blocks: int | None) -> dict:
    """Run both stages as step 01 does; with `blocks`, only so many blocks of queries of the first."""
    settings = Cleaning()
    labels, vectors = np.load(folder / "labels.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
    begin = time.monotonic()
    parts = Parts(folder / "neighbours.npy", len(labels), 16_384, "scale")
    missing = sum(not path.exists() for path in map(parts.path, range(len(parts.ranges))))

    def work(rows: range) -> tuple[np.ndarray, dict]:
        k, limit = settings.neighbours, settings.same_label
        _, found = top_k(vectors[rows.start : rows.stop], vectors, k + 1, memory_gib)
        return same_label(found, labels, rows, limit), {}

    if blocks is None:
        parts.make(Ranks(), work, f"{len(labels)} images")
    else:
        missing = blocks
        for rows in track(parts.ranges[:blocks], blocks, f"{len(labels)} images", unit="blocks"):
            work(rows)
    searched, searched_cpu = time.monotonic(), time.process_time()
    figures = {
        "images": len(labels),
        # Where a part of the blocks was run, the time of all is extrapolated from theirs.
        "blocks_run": missing,
        "blocks": len(parts.ranges),
        "neighbours_s": round((searched - begin) * len(parts.ranges) / max(missing, 1)),
        "neighbours_cpu_s": round(searched_cpu * len(parts.ranges) / max(missing, 1)),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if blocks is not None:
        return figures
    neighbours = np.load(folder / "neighbours.npy", mmap_mode="r")
    groups = rows_by_label(labels)
    counts = count_neighbours(neighbours)
    costs = [int(counts[rows].sum()) for rows in groups]
    shares = [sum(Ranks(rank, 8).share(costs, costs)) for rank in range(8)]
    possible = sum(len(pairs_of(within_label(neighbours, rows))) for rows in groups)
    planned = time.monotonic()
    return figures | {
        "labels": len(groups),
        "largest": max(map(len, groups)),
        "planning_s": round(planned - searched, 1),
        "pairs": possible,
        "imbalance_of_8_ranks": round(max(shares) / (sum(shares) / 8) - 1, 4),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[125_000, 250_000])
    parser.add_argument("--memory-gib", type=float, default=4.0, help="the recipe's memory_gib")
    parser.add_argument("--folder", type=Path, help="keep the files here, and go on from what is there")
    parser.add_argument("--blocks", type=int, help="run only so many blocks of 16,384 queries, and plan nothing")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.folder, arguments.memory_gib, arguments.blocks)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = []
        for images in arguments.images:
            folder = (arguments.folder or Path(temporary)) / str(images)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "vectors.npy").exists():
                make(folder, images)
            # A process of its own, so that the peak is this size's.
            command = [sys.executable, __file__, "--one", "--folder", folder, "--memory-gib", arguments.memory_gib]
            command += ["--blocks", arguments.blocks] if arguments.blocks else []
            done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(results[-1], flush=True)
    print(json.dumps({"sizes": results, "peak_gib": max(r["peak_gib"] for r in results)}))


if __name__ == "__main__":
    main()
