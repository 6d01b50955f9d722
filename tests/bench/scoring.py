"""Scoring at 2019's size beside plain loops: every figure, for all, Public and Private rows, and the bootstrap.

    python tests/bench/scoring.py
    python tests/bench/scoring.py --resamples 200

Synthetic submissions of 117,577 test images with lists of 100 out of 761,757 index ids, a prediction for each and
one in three rows Public. Once as in 2019 about 1 % of the rows have a truth, once each of them. Ours is what
07_submit.py does for one submission of each task: the figures and the samples of the intervals. The peer's way is
a loop over the rows of a pandas table; its bootstrap is timed on a few draws, told as if for all of them. Reading
the CSV files is the same for both and timed apart. The last line has our seconds where each row has a truth.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from common import ROOT  # noqa: F401  (puts src on the path)

from landmark import submission
from landmark.bootstrap import recognition_samples, retrieval_samples

LANDMARKS = 203_094  # in the train set
RELEVANT = 8  # index images of each landmark that is asked for
SHARE_2019 = 0.01
DRAWS_TIMED = 2  # of the peer's bootstrap


def synthesise(folder: Path, share: float, test: int, index: int, rng: np.random.Generator) -> None:
    """Write both solutions and both submissions, a truth in the share `share` of the rows, half of it found."""
    ids = np.array([f"{n:016x}" for n in rng.permutation(2**40 + np.arange(test))])
    index_ids = np.array([f"{n:016x}" for n in 2**41 + np.arange(index)])
    lists = rng.integers(index, size=(test, submission.MAX_IMAGES))
    answers = np.where(rng.random(test) < share, rng.integers(LANDMARKS, size=test), -1)
    relevant = rng.integers(index, size=(test, RELEVANT))
    # Early ranks hold the first of the relevant images more often than late ones.
    for column in range(RELEVANT):
        found = np.flatnonzero(rng.random(test) < 0.5)
        lists[found, rng.geometric(0.1, size=len(found)).clip(max=submission.MAX_IMAGES) - 1] = relevant[
            found, column
        ]
    usage = np.where(rng.random(test) < 1 / 3, "Public", "Private")
    shown = np.where(rng.random(test) < 0.5, answers, rng.integers(LANDMARKS, size=test)).clip(min=0)
    cells = {
        "retrieval": [
            " ".join(index_ids[r]) if a >= 0 else "None" for r, a in zip(relevant, answers, strict=True)
        ],
        "recognition": [str(a) if a >= 0 else "None" for a in answers],
    }
    for task, column in submission.COLUMN.items():
        table = pd.DataFrame({"id": ids, column: cells[task], "Usage": usage})
        table.to_csv(folder / f"{task}_solution.csv", index=False)
    submission.write_retrieval(folder / "retrieval.csv", ids, (index_ids[row] for row in lists))
    submission.write_recognition(folder / "recognition.csv", ids, shown.tolist(), rng.random(test))


def ours(task: str, solution: submission.Solution, predictions: dict, resamples: int) -> dict[str, float]:
    """Seconds of the figures and of the samples, and the metric of all rows."""
    judge = {"retrieval": submission.retrieval_figures, "recognition": submission.recognition_figures}[task]
    resample = {"retrieval": retrieval_samples, "recognition": recognition_samples}[task]
    figures, seconds = timed(judge, solution, predictions)
    _, bootstrap = timed(resample, solution, predictions, resamples)
    metric = next(iter(figures.values()))
    return {"figures": seconds, "bootstrap": bootstrap, "metric": metric["all"]}


def peer(task: str, solution: submission.Solution, predictions: dict, resamples: int) -> dict[str, float]:
    """As `ours`, by loops over the rows of a table."""
    loop = {"retrieval": loop_retrieval, "recognition": loop_recognition}[task]
    table = pd.DataFrame({"truth": solution.truth, "predicted": pd.Series(predictions), "usage": solution.usage})

    def every_subset(table: pd.DataFrame) -> list[float]:
        return [loop(table), *(loop(table[table["usage"] == usage]) for usage in submission.SUBSETS)]

    def bootstrap() -> None:
        for draw in range(DRAWS_TIMED):
            every_subset(table.sample(frac=1, replace=True, random_state=draw))

    metrics, seconds = timed(every_subset, table)
    _, drawn = timed(bootstrap)
    return {"figures": seconds, "bootstrap": drawn * resamples / DRAWS_TIMED, "metric": metrics[0]}


def loop_retrieval(table: pd.DataFrame) -> float:
    """mAP@100 of a table with columns truth and predicted; the other figures are taken along in the same loop."""
    total, first, depths = [], [], {depth: [] for depth in submission.DEPTHS}
    for row in table.itertuples():
        if not row.truth:
            continue
        ranks, seen = [], set()
        for rank, image in enumerate(row.predicted[: submission.MAX_IMAGES], 1):
            if image in row.truth and image not in seen:
                ranks.append(rank)
                seen.add(image)
        precisions = [hits / rank for hits, rank in enumerate(ranks, 1)]
        total.append(sum(precisions) / min(len(row.truth), submission.MAX_IMAGES))
        first.append(ranks[0] if ranks else submission.MAX_IMAGES + 1)
        for depth, values in depths.items():
            values.append(sum(rank <= depth for rank in ranks) / depth)
    for values in (first, *depths.values()):
        np.mean(values), np.median(values)
    return float(np.mean(total))


def loop_recognition(table: pd.DataFrame) -> float:
    """GAP of a table with columns truth and predicted."""
    scores = table["predicted"].map(lambda predicted: predicted[1])
    ranked = table.iloc[np.argsort(-scores.to_numpy(), kind="stable")]
    right, total, labelled = 0, 0.0, 0
    for rank, row in enumerate(ranked.itertuples(), 1):
        labelled += bool(row.truth)
        if row.predicted[0] in row.truth:
            right += 1
            total += right / rank
    return total / labelled


def timed(function: Callable, *arguments: object) -> tuple:
    begin = time.monotonic()
    result = function(*arguments)
    return result, time.monotonic() - begin


def peak_gib() -> float:
    """The most memory this process ever held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def measure(share: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Print the lines of one share of labelled rows; the sums of seconds, and the peak after our part."""
    sums = {"ours": 0.0, "peer": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(2019)
        synthesise(Path(folder), share, arguments.test, arguments.index, rng)
        for task, read in (("retrieval", submission.read_retrieval), ("recognition", submission.read_recognition)):
            solution, first = timed(submission.read_solution, Path(folder) / f"{task}_solution.csv", task)
            predictions, second = timed(read, Path(folder) / f"{task}.csv")
            ways = {}
            for name, way in (("ours", ours), ("peer", peer)):
                ways[name] = way(task, solution, predictions, arguments.resamples)
                sums[name] += ways[name]["figures"] + ways[name]["bootstrap"]
                if name == "ours":
                    sums["peak"] = peak_gib()
                cells = "".join(f"{ways[name][key]:>11.2f}" for key in ("figures", "bootstrap"))
                metric = f"{ways[name]['metric']:>10.6f}"
                print(f"{share:>8.0%}  {task:12} {name:5}{first + second:>10.2f}{cells}  {metric}", flush=True)
            assert abs(ways["ours"]["metric"] - ways["peer"]["metric"]) < 1e-9
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=int, default=117_577, help="test images")
    parser.add_argument("--index", type=int, default=761_757, help="index images")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    columns = f"{'read s':>10}{'figures s':>11}{'bootstrap s':>11}  {'mAP, GAP':>10}"
    print(f"{'labelled':>8}  {'task':12} {'way':5}{columns}")
    usual, worst = (measure(share, arguments) for share in (SHARE_2019, 1.0))
    for name, sums in ((f"{SHARE_2019:.0%} labelled", usual), ("all labelled", worst)):
        print(f"{name}: ours {sums['ours']:.2f} s, the peer's way {sums['peer']:.0f} s")
    speedup = worst["peer"] / worst["ours"]
    print(
        json.dumps(
            {
                "seconds": round(worst["ours"], 2),
                "speedup": round(speedup, 1),
                "peak_gib": round(worst["peak"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
