"""Exact nearest neighbours beside those of faiss and of torch, and approximate ones with their recall.

    python tests/bench/search.py                                2 minutes on 2 cores
    python tests/bench/search.py --scale 100000 300000 1000000  the table of sizes, 512 numbers each: 12 minutes

All take descriptors in memory and give the k most similar, best first. Ours also breaks ties by row and keeps to
`memory_gib`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from common import ROOT, peak_gib  # noqa: F401 (puts src on the path)

from landmark.neighbours import top_k
from landmark.parallel import cores
from landmark.recipe import load_recipe
from landmark.search import SearchIndex, recall

# Of a vector around its centre, so that there is something near to find.
SPREAD = 0.5
# Descriptors fill far fewer directions than they have numbers.
DIRECTIONS = 64


def vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """(rows, dim) float32 of unit length, ten or so around each of many centres, and a little noise."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centres = fixed.standard_normal((2_000, DIRECTIONS), np.float32)
    directions = fixed.standard_normal((DIRECTIONS, dim), np.float32)
    made = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 65_536):
        part = made[start : start + 65_536]
        near = centres[rng.integers(len(centres), size=len(part))]
        near += SPREAD * rng.standard_normal(near.shape, np.float32)
        np.matmul(near, directions, out=part)
        part += rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def by_faiss(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss.omp_set_num_threads(cores())
    return faiss.knn(queries, database, k, metric=faiss.METRIC_INNER_PRODUCT)


def by_torch(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.topk(torch.from_numpy(queries) @ torch.from_numpy(database).T, k, dim=1)


def compare(queries: np.ndarray, database: np.ndarray, k: int, rounds: int) -> dict[str, float]:
    """Median seconds of each, in turn; the first round warms up."""
    ways = {"ours": lambda *a: top_k(*a, memory_gib=4.0), "faiss": by_faiss, "torch": by_torch}
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(queries, database, k)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def approximate(queries: np.ndarray, database: np.ndarray, k: int, index: str, parameters: str) -> dict:
    """Seconds to build an index, seconds to search it and its recall."""
    settings = ["device=cpu", f'search.index="{index}"', f"search.parameters={parameters}"]
    search = SearchIndex(database, load_recipe("sample", settings))
    begin = time.perf_counter()
    search.top_k(queries, k)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    _, rows = search.top_k(queries, k)
    again = time.perf_counter() - begin
    found = recall(rows, top_k(queries, database, k, 4.0)[1])
    return {"build_s": first - again, "search_s": again, "recall": found}


def of_size(rows: int, queries: int, k: int, memory_gib: float, folder: str) -> dict:
    """Seconds and peak memory of one size, the database in a file of float16 numbers."""
    path = Path(folder) / "database.npy"
    np.save(path, vectors(rows, 512, seed=1).astype(np.float16))
    code = (
        "import sys, time, numpy as np; sys.path.insert(0, 'tests/bench')\n"
        "from common import peak_gib; from search import vectors; from landmark.neighbours import top_k\n"
        f"queries, database = vectors({queries}, 512, 2), np.load({str(path)!r}, mmap_mode='r')\n"
        f"begin = time.perf_counter(); top_k(queries, database, {k}, {memory_gib})\n"
        "print(time.perf_counter() - begin, peak_gib())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return {"rows": rows, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-gib", type=float, default=1.0, help="of the table of sizes")
    parser.add_argument("--scale", type=int, nargs="*", default=[50_000, 100_000], help="rows of 512 numbers")
    arguments = parser.parse_args()
    queries, database = vectors(arguments.queries, arguments.dim, 2), vectors(arguments.rows, arguments.dim, 1)
    seconds = compare(queries, database, arguments.k, arguments.rounds)
    peak = peak_gib()
    print(f"{arguments.queries} x {arguments.rows} x {arguments.dim}, k {arguments.k}, {cores()} cores")
    for name, value in seconds.items():
        print(f"  {name:6} {value:7.2f} s")
    print(f"{'approximate, k 100':33} build s  search s  recall")
    for index, parameters in (
        ("IVF128,SQfp16", "nprobe=32"),
        ("PCA256,IVF128,PQ64", "nprobe=32"),
        ("HNSW32", "efSearch=200"),
    ):
        row = approximate(queries, database, 100, index, parameters)
        print(f"  {index:18} {parameters:12} {row['build_s']:6.1f} {row['search_s']:9.2f} {row['recall']:7.3f}")
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.scale:
            sizes.append(of_size(rows, arguments.queries, arguments.k, arguments.memory_gib, folder))
            print(f"  {arguments.queries} x {rows} x 512 float16 in a file: {sizes[-1]}")
    best = min(seconds["faiss"], seconds["torch"])
    figures = {f"{name}_s": round(value, 3) for name, value in seconds.items()}
    print(
        json.dumps(
            {"vs_best": round(seconds["ours"] / best, 3), "peak_gib": round(peak, 2), **figures, "sizes": sizes}
        )
    )


if __name__ == "__main__":
    main()
