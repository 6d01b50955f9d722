"""What each part of the method is worth: the recipe with parts left out, and the table of what that changes."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from landmark.bootstrap import interval
from landmark.errors import UserError
from landmark.judging import TASKS
from landmark.recipe import Recipe
from landmark.settings import Model
from landmark.submission import SUBSETS, Solution

FULL = "full"
_COLUMNS = ["variant", "metric", "subset", "score", "low", "high"]
_COLUMNS += ["difference", "difference_low", "difference_high", "differs"]


@dataclass(frozen=True)
class Variant:
    """The recipe with one part left out: the end of its run's name, and settings as --set has them."""

    name: str
    overrides: tuple[str, ...]


def variants(recipe: Recipe) -> tuple[list[Variant], dict[str, str]]:
    """The variants that apply to the recipe, in the table's order, and of the others name -> why not."""
    found, left_out = [], {}
    for name, overrides, applies, why_not in _candidates(recipe):
        if applies:
            # The later steps read no DELF that the run itself trains, only one of its bootstrap round.
            found.append(Variant(name, (*overrides, *["delf=null"] * bool(recipe.delf))))
        else:
            left_out[name] = why_not
    return found, left_out


def _candidates(recipe: Recipe) -> Iterator[tuple[str, list[str], bool, str]]:
    """Name and overrides of each variant, whether it applies to the recipe, and the reason where it does not."""
    cleaning, retrieval, recognition = recipe.cleaning, recipe.retrieval, recipe.recognition
    believed = ["cleaning.more_than=-1"] + ["cleaning.published=null"] * bool(cleaning.published)
    # What decisions there are now admit every image, as does a gallery that does not ask them.
    believed += ["gallery=all"] * (recipe.gallery != "all")
    cleans = cleaning.looks or cleaning.published is not None
    yield "without-cleaning", believed, cleans, "the recipe cleans nothing"

    trained = [model for model in recipe.models if model.loss]
    for kind in ("soft", "hard"):
        stages = [override for model in trained for override in _stages_of(model, kind)]
        yield f"{kind}-only", stages, bool(stages), f"no model is trained with {kind} and with other stages"
    whole = [f"models.{model.name}.finetune=null" for model in trained if model.finetune]
    yield "without-finetune", whole, bool(whole), "no model is fine-tuned"
    for model in recipe.models:
        alone = _flow([model.model_dump(mode="json", exclude_defaults=True)])
        yield f"only-{model.name}", [f"models={alone}"], len(recipe.models) > 1, "it is the only model"
    several = recipe.extraction.scales != [1.0]
    yield "single-scale", ["extraction.scales=[1.0]"], several, "the recipe has the one scale 1.0"

    others, dqe = [name for name in retrieval.rerank if name != "dqe"], "dqe" in retrieval.rerank
    yield "without-dqe", [f"retrieval.rerank={_flow(others)}"], dqe, "the recipe has no DQE"
    yield "without-sort", ["retrieval.sort=false"], dqe and retrieval.sort, "the recipe has no sort step"
    inserts = dqe and retrieval.insert_above is not None
    yield "without-insert", ["retrieval.insert_above=null"], inserts, "the recipe has no insert step"
    counts, bans = recognition.verify != "none", recognition.ban_above is not None
    yield "without-inliers", ["recognition.verify=none"], counts, "the recipe has no inlier term"
    yield "without-ban", ["recognition.ban_above=null"], bans, "the recipe bans no distractors"


def _stages_of(model: Model, kind: str) -> Iterator[str]:
    """The override that leaves a model the stages of one augmentation; none if it has no such or only such."""
    stages = [stage.model_dump() for stage in model.training.stages if stage.augmentation == kind]
    if 0 < len(stages) < len(model.training.stages):
        yield f"models.{model.name}.training.stages={_flow(stages)}"


def _flow(value: list) -> str:
    """A list as one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def choose(
    found: list[Variant], left_out: dict[str, str], names: Sequence[str]
) -> tuple[list[Variant], dict[str, str]]:
    """Those of `variants` that have one of these names; of no names, all. Raises UserError for an unknown name."""
    known = [*(variant.name for variant in found), *left_out]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise UserError(
                f"--variants {name}: no such variant; did you mean {close[0]}? All: {', '.join(known)}"
            )
    wanted = set(names or known)
    chosen = [variant for variant in found if variant.name in wanted]
    return chosen, {name: why for name, why in left_out.items() if name in wanted}


@dataclass(frozen=True)
class Judged:
    """Scores of a submission by subset, None for an empty one, and those of drawn test sets, (R,) float64 each."""

    scores: Mapping[str, float | None]
    samples: Mapping[str, np.ndarray]


def judge(task: str, solution: Solution, path: Path) -> Judged:
    """Score the submission at `path`. Raises SubmissionError when it does not fit the solution."""
    ways = TASKS[task]
    predictions = ways.read(path)
    return Judged(ways.figures(solution, predictions)[ways.metric], ways.samples(solution, predictions))


def compare(metric: str, judged: Mapping[str, Judged]) -> pd.DataFrame:
    """One row per variant and subset: the score, its difference to the variant `full`, and intervals of 95 %.

    judged: by variant. The samples of all are of the same draws, so that their differences are paired. `differs`
    tells whether the interval of the difference excludes 0. Empty for a subset without truth, and the full method
    has no difference to itself.
    """
    rows, full = [], judged[FULL]
    for name, one in judged.items():
        for subset in ("all", *SUBSETS):
            score, bounds = one.scores[subset], interval(one.samples[subset])
            row = [name, metric, subset, score, *(bounds or (None, None))]
            if name == FULL or score is None:
                rows.append(row + [None] * 4)
                continue
            # Sums in another order differ in their last digits, which must not mark a difference.
            low, high = interval(np.round(one.samples[subset] - full.samples[subset], 12))
            rows.append([*row, round(score - full.scores[subset], 12), low, high, low > 0 or high < 0])
    return pd.DataFrame(rows, columns=_COLUMNS)


def markdown(table: pd.DataFrame, subsets: Sequence[str] = ("all", *SUBSETS)) -> str:
    """The table of `compare`, of several metrics one behind the other, in aligned Markdown: a block per metric."""
    blocks = []
    for metric, rows in table.groupby("metric", sort=False):
        lines = [[metric, *(head for subset in subsets for head in (subset, "difference"))]]
        for name, of_variant in rows.groupby("variant", sort=False):
            by_subset = of_variant.set_index("subset")
            lines.append([name, *(cell for subset in subsets for cell in _cells(by_subset.loc[subset]))])
        blocks.append(_aligned(lines))
    return "\n".join(blocks)


def _cells(row: pd.Series) -> tuple[str, str]:
    """Score and difference, with their intervals, in words."""
    if pd.isna(row["score"]):
        return "–", ""
    score = f"{row['score']:.4f} ({row['low']:.4f} … {row['high']:.4f})"
    if pd.isna(row["difference"]):
        return score, ""
    between = f"({row['difference_low']:+.4f} … {row['difference_high']:+.4f})"
    return score, f"{row['difference']:+.4f} {between}{' *' * bool(row['differs'])}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    rows = (" | ".join(map(str.ljust, line, widths)) for line in lines)
    return "".join(f"| {row} |\n" for row in rows)


LEGEND = (
    "In brackets 95 % intervals by 1000 bootstrap draws of the test images. A difference is to the full method on"
    " the same draws; * where its interval excludes 0.\n"
)


def report(run: str, table: pd.DataFrame, chosen: list[Variant], left_out: Mapping[str, str]) -> str:
    """The whole of ablation.md: the table, what each variant sets, and which ones are left out, and why."""
    text = f"# Ablation of {run}\n\n{markdown(table)}\n{LEGEND}\n"
    text += "".join(f"- {variant.name}: `{' '.join(variant.overrides)}`\n" for variant in chosen)
    return text + "".join(f"- {name} is left out: {why}\n" for name, why in left_out.items())
