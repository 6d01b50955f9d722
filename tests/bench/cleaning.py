"""Step 01 against the planted truth: pairs verified, the same kept set as with every pair, precision and recall.

    python tests/bench/cleaning.py
    python tests/bench/cleaning.py --delf input/bench-bootstrap/models/delf.pt    # with DELF's table too

Step 01 runs as a user runs it on photographs of which label_noise.csv tells the wrong labels (monuments, if it is
there, else the rendered sample). Then every pair is verified, and the kept set is compared and judged over the
thresholds. The share of pairs on clean labels is that of two rendered landmarks of 150 views each, wrong labels
removed, under the paper's rule (more than 2 verified).
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import ROOT, photographs, train_images

from landmark import cleaning
from landmark.competition import open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.local_features import extract_local, open_extractor
from landmark.recipe import Recipe, load_recipe
from landmark.sample import render_competition
from landmark.settings import Sample
from landmark.verification import count_inliers
from landmark.weights import delf_weights


def clean(recipe: str, settings: list[str]) -> tuple[int, int]:
    """Run step 01 from nothing; the pairs it verified, and those there are."""
    run = load_recipe(recipe, settings)
    for left_over in ("done/01_clean.json", "done/01_describe.json", "done/01_neighbours.json"):
        (run.work / left_over).unlink(missing_ok=True)
    rounds = (
        [["01_clean", "--round", "bootstrap"], ["02_train", "--round", "bootstrap"]] if run.uses_bootstrap else []
    )
    for step, *options in [*rounds, ["01_clean"]]:
        command = [sys.executable, ROOT / "src" / f"{step}.py", "--recipe", recipe, "--set", *settings, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    tried, possible = re.search(r"(\d+) pairs verified of (\d+)", done.stdout).groups()
    return int(tried), int(possible)


def clean_labels(folder: Path) -> Path:
    """Two rendered landmarks, seen often, in a GLDv2 layout without wrong labels."""
    settings = Sample(landmarks=2, train_views=150, index_views=1, test_views=1)
    render_competition(folder / "sample", settings, seed=2019, workers=2)
    table = train_images(folder / "sample")
    table[~table["wrong"]].assign(url="")[["id", "url", "landmark_id"]].to_csv(
        folder / "sample" / "train.csv", index=False
    )
    return folder / "sample"


class Truth:
    """Every pair of a finished step 01, verified with the features of a recipe."""

    def __init__(self, recipe: Recipe, wrong: set[str]):
        self.recipe = recipe
        competition = open_competition(recipe)
        self.vectors, self.ids = DescriptorFile(recipe.work / "cleaning", "train").read()
        self.labels = competition.labels_of(self.ids)
        self.wrong = np.isin(self.ids, list(wrong))
        self.neighbours = np.load(recipe.work / "cleaning" / "neighbours.npy")
        self.pairs = cleaning.pairs_of(self.neighbours)
        local = recipe.local_features
        paths = enumerate(competition.path("train", i) for i in self.ids)
        features = extract_local(paths, local, open_extractor(local, delf_weights(recipe), "cpu"), recipe.threads)
        self.inliers = count_inliers(self.pairs, features, features, recipe.verification, recipe.threads)

    def decide(self, min_inliers: int, more_than: int, agreement: bool) -> pd.DataFrame:
        """What step 01 decides when it knows every pair."""
        verified = np.zeros(len(self.ids), np.int64)
        looks_at = {(i, j) for i, row in enumerate(self.neighbours.tolist()) for j in row if j >= 0}
        for one, two in self.pairs[self.inliers >= min_inliers].tolist():
            verified[one] += (one, two) in looks_at
            verified[two] += (two, one) in looks_at
        counts = cleaning.count_neighbours(self.neighbours)
        seen = pd.DataFrame(
            {"id": self.ids, "landmark_id": self.labels, "neighbours": counts, "verified": verified}
        )
        settings = self.recipe.cleaning
        minimum = None
        if agreement:
            minimum = settings.agreement.min_support
            voted = cleaning.agreement(
                self.vectors, self.labels, verified > 0, settings.agreement, self.recipe.memory_gib
            )
            seen["voted"], seen["support"] = voted[0], voted[1].round(4)
        return cleaning.decide(seen, more_than, minimum, settings.min_images)

    def judge(self, decided: pd.DataFrame) -> tuple[float, float]:
        """Precision and recall of the kept images."""
        kept = decided["kept"].to_numpy()
        right = (kept & ~self.wrong).sum()
        return right / max(1, kept.sum()), right / (~self.wrong).sum()


def show(truth: Truth) -> None:
    """Print precision and recall over the thresholds."""
    kind, base = truth.recipe.local_features.features, truth.recipe.verification.min_inliers
    rules = [(m, agreement) for m in (0, 1, 2) for agreement in (False, True)]
    if truth.recipe.cleaning.agreement is None:
        rules = [rule for rule in rules if not rule[1]]
    print(f"{kind}: precision / recall of the kept set, by geometry alone and with agreement")
    print("min_inliers" + "".join(f"{f'> {m} +agreement' if a else f'> {m} verified':>16}" for m, a in rules))
    for least in sorted({max(1, base + step) for step in (-4, -2, -1, 0, 1, 2, 4, 8)}):
        values = [truth.judge(truth.decide(least, *rule)) for rule in rules]
        cells = "".join(f"{precision:>8.3f} /{recall:>6.3f}" for precision, recall in values)
        print(f"{least:>11}{cells}" + ("   <- recipe" if least == base else ""))


def delf_settings(weights: Path) -> list[str]:
    """Settings under which DELF takes RootSIFT's place (see verification.py)."""
    local = f"{{features: delf, weights: {weights}, max_points: 1000, longest_side: 512}}"
    verification = "{ratio: 0.95, model: affine, threshold: 16, min_inliers: 16}"
    return [f"local_features={local}", f"verification={verification}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLDv2 layout with label_noise.csv; default: monuments")
    parser.add_argument("--recipe", default="photos")
    parser.add_argument(
        "--delf", type=Path, help="a DELF checkpoint of step 02: judge DELF beside the recipe's features"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with photographs(arguments.data) as data:
        settings = [f"data={data}", "run=bench", *arguments.set]
        noisy_tried, noisy_possible = clean(arguments.recipe, settings)
        peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        frame = train_images(data)
        recipe = load_recipe(arguments.recipe, settings)
        wrong = set(frame.loc[frame["wrong"], "id"])
        truth = Truth(recipe, wrong)
        others = []
        if arguments.delf:
            others.append(Truth(load_recipe(arguments.recipe, [*settings, *delf_settings(arguments.delf)]), wrong))
    rule = recipe.cleaning
    default = truth.decide(recipe.verification.min_inliers, rule.more_than, rule.agreement is not None)
    written = pd.read_csv(recipe.work / "clean_decisions.csv", dtype={"id": str}, index_col="id")["kept"]
    same = default.set_index("id")["kept"].equals(written.loc[truth.ids])
    precision, recall = truth.judge(default)

    for one in (truth, *others):
        show(one)
    with tempfile.TemporaryDirectory() as folder:
        data = clean_labels(Path(folder))
        options = [
            f"data={data}",
            "sample=null",
            "run=bench-clean",
            "cleaning.more_than=2",
            "cleaning.agreement=null",
        ]
        tried, possible = clean("sample", options)
    print(f"pairs verified: {noisy_tried} of {noisy_possible} here, {tried} of {possible} on clean labels")
    figures = {
        "pairs_share": round(tried / possible, 4),
        "pairs_share_noisy": round(noisy_tried / noisy_possible, 4),
        "same_kept_set": bool(same),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "peak_gib": round(peak_gib, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
