"""Ablation: the recipe's run, then the same with parts of the method left out, and one table of the scores.

Reads   the recipe's data and the solutions
Writes  submissions/<run>/ablation.csv and ablation.md; of each variant a run in input/<run>-<variant>/, which
        begins with links to the results in input/<run>/, and what its steps say in ablation.log there
Run     bash run.sh ablation --recipe sample
        python src/ablation.py --recipe sample --variants without-sort without-ban
"""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from landmark.ablation import FULL, LEGEND, Variant, choose, compare, judge, markdown, report, variants
from landmark.cli import errors_told, recipe_parser
from landmark.competition import open_competition, write_table
from landmark.errors import UserError
from landmark.judging import TASKS
from landmark.recipe import Recipe, load_recipe
from landmark.runs import hold_run
from landmark.seeding import records, seed_run
from landmark.store import Job, atomic_path
from landmark.submission import read_solution

STEPS = sorted(Path(__file__).parent.glob("0[0-7]_*.py"))


def main(name: str, overrides: list[str], names: list[str]) -> None:
    """name, overrides: of the recipe, as the steps' command lines have them; names: of variants, empty for all."""
    started = time.monotonic()
    recipe = load_recipe(name, overrides)
    chosen, left_out = choose(*variants(recipe), names)
    for variant, why in left_out.items():
        print(f"{variant} is left out: {why}")
    arguments = ["--recipe", name, "--set", f"run={recipe.run}", *overrides]
    run_steps(STEPS[:1], recipe, arguments)
    solutions = find_solutions(recipe)
    run_steps(STEPS[1:], recipe, arguments)
    runs = {FULL: recipe}
    for variant in chosen:
        settings = [*variant.overrides, f"run={recipe.run}-{variant.name}"]
        runs[variant.name] = load_recipe(name, [*overrides, *settings])
        run_variant(variant, recipe, runs[variant.name], [*arguments, *settings])
    make_table(runs, chosen, left_out, solutions)
    print(f"done in {time.monotonic() - started:.0f} s")


def find_solutions(recipe: Recipe) -> dict[str, Path]:
    """The solution of each task that has one. Raises UserError without any."""
    with hold_run(recipe):
        competition = open_competition(recipe)
    solutions = {task: path for task in TASKS if (path := competition.solution(task))}
    if not solutions:
        raise UserError(
            f"{competition.tables} has no solutions, so nothing can be compared; put retrieval_solution.csv or"
            " recognition_solution.csv there"
        )
    return solutions


def run_steps(steps: list[Path], recipe: Recipe, arguments: list[str], log: Path | None = None) -> None:
    """Run steps in order, and those of the bootstrap round before them where something starts from it.

    What they say is shown, or goes to `log`.
    """
    in_order = [(step, []) for step in steps]
    if recipe.uses_bootstrap:
        first = [step for step in steps if step.name[:2] in ("01", "02")]
        in_order = [(step, ["--round", "bootstrap"]) for step in first] + in_order
    for step, more in in_order:
        started = time.monotonic()
        run_step(step, [*arguments, *more], log)
        if log is None:
            print(f"   ({time.monotonic() - started:.0f} s)")


def run_step(step: Path, arguments: list[str], log: Path | None) -> None:
    """Run one step as a process of its own.

    A step that fails ends this one too: with SystemExit where it has shown its error, else with a UserError.
    """
    command = [sys.executable, str(step), *arguments]
    if log is None:
        code = subprocess.run(command, check=False).returncode
        if code > 0:
            sys.exit(code)
    else:
        with log.open("ab") as file:
            code = subprocess.run(command, check=False, stdout=file, stderr=file).returncode
    if code < 0:
        raise UserError(f"step {step.stem} was stopped by signal {-code}; run the same command again to go on")
    if code > 0:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()
        # Of a step that broke down without an error of its own, the last line of the traceback.
        told = [line for line in said if line.startswith("error: ")] or said or ["it said nothing"]
        raise UserError(f"{log}, step {step.stem}: {told[-1].removeprefix('error: ')}")


def run_variant(variant: Variant, recipe: Recipe, changed: Recipe, arguments: list[str]) -> None:
    """Bring the run of the `changed` recipe up to date, beginning with what that of the whole recipe has done."""
    job = Job(
        changed.work / "done" / "ablation.json",
        # The full run was brought up to date just now: its records stand for all that it was made from.
        reads=dict.fromkeys(records(recipe.work), ""),
        settings=changed.model_dump(mode="json"),
        writes=[changed.work / f"{task}.csv" for task in TASKS],
    )
    if job.is_done():
        print(f"{variant.name}: up to date ({changed.work})")
        return
    started = time.monotonic()
    print(f"{variant.name}: {' '.join(variant.overrides)}")
    job.start()
    seeded = [(recipe, changed)]
    if changed.uses_bootstrap:
        seeded.append((recipe.bootstrap, changed.bootstrap))
    for source, target in seeded:
        with hold_run(target):
            seed_run(source.work, target.work)
    log = changed.work / "ablation.log"
    log.unlink(missing_ok=True)
    # Step 07 would write what the table needs only in part.
    run_steps(STEPS[1:-1], changed, arguments, log)
    job.finish()
    print(f"   ({time.monotonic() - started:.0f} s)")


def make_table(
    runs: dict[str, Recipe], chosen: list[Variant], left_out: dict[str, str], solutions: dict[str, Path]
) -> None:
    """Write ablation.csv and ablation.md, unless they are up to date, and show the scores of all rows."""
    full = runs[FULL]
    table_path, text_path = full.submissions / "ablation.csv", full.submissions / "ablation.md"
    predictions = {task: {name: run.work / f"{task}.csv" for name, run in runs.items()} for task in solutions}
    job = Job(
        full.work / "done" / "ablation.json",
        reads=dict.fromkeys(
            [*solutions.values(), *(p for paths in predictions.values() for p in paths.values())], ""
        ),
        settings={
            "variants": [[v.name, *v.overrides] for v in chosen],
            "left_out": left_out,
            "tasks": [*solutions],
        },
        writes=[table_path, text_path],
    )
    if not job.is_done():
        job.start()
        tables = []
        for task, path in solutions.items():
            solution = read_solution(path, task)
            judged = {name: judge(task, solution, path) for name, path in predictions[task].items()}
            tables.append(compare(TASKS[task].title, judged))
        table = pd.concat(tables)
        write_table(table_path, table)
        with atomic_path(text_path) as part:
            part.write_text(report(full.run, table, chosen, left_out), encoding="utf-8")
        job.finish()
    print(markdown(pd.read_csv(table_path), ["all"]) + LEGEND, end="")
    print(f"table: {table_path}, {text_path}")


if __name__ == "__main__":
    parser = recipe_parser(__doc__)
    parser.add_argument(
        "--variants",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="only these; a wrong name lists all",
    )
    given = parser.parse_args()
    with errors_told():
        main(given.recipe, given.set, given.variants)
