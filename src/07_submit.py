"""Step 07: write, validate and, where the solutions are there, score both submissions; on request upload them.

Reads   input/<run>/{retrieval,recognition}{,_plain}.csv and the competition's solutions
Writes  submissions/<run>/retrieval.csv, recognition.csv, scores.json, the picture retrieved.jpg, and
        answers.csv with a name and a path per photograph; after an upload uploads.json
Run     python src/07_submit.py --recipe sample
        python src/07_submit.py --recipe gld2019 --upload
"""

from pathlib import Path

from landmark.bootstrap import interval
from landmark.cli import run_step
from landmark.competition import Competition, open_competition
from landmark.errors import UserError
from landmark.judging import TASKS, check_submission
from landmark.plan import made_by, open_job
from landmark.recipe import Recipe
from landmark.store import write_json
from landmark.submission import read_recognition, read_retrieval, read_solution, write_recognition, write_retrieval
from landmark.upload import chosen_competitions, upload

SUBSETS = ("all", "Public", "Private")
FLAGS = {
    "--upload": {
        "nargs": "*",
        "choices": list(TASKS),
        "dest": "tasks",
        "metavar": "TASK",
        "help": "then upload to Kaggle: retrieval, recognition, or without a name each that the recipe has a"
        " competition for (kaggle.competitions)",
    },
    "--dry-run": {"action": "store_true", "help": "with --upload: all but the upload itself, without the network"},
    "--message": {
        "metavar": "TEXT",
        "help": "what the submissions are called on Kaggle; default: recipe, run, score",
    },
    "--wait": {"type": float, "default": 600, "metavar": "SECONDS", "help": "for Kaggle's score; default: 600"},
}


def main(recipe: Recipe, tasks: list[str] | None, dry_run: bool, message: str | None, wait: float) -> None:
    if tasks is None and (dry_run or message):
        raise UserError("--dry-run and --message belong to --upload; add it")
    # Before any work, so that a missing competition is told at once.
    competitions = {} if tasks is None else chosen_competitions(recipe, tasks)
    competition = open_competition(recipe)
    folder = recipe.submissions
    retrieval, recognition = folder / "retrieval.csv", folder / "recognition.csv"
    scores, picture, answers = folder / "scores.json", folder / "retrieved.jpg", folder / "answers.csv"
    solutions = {task: competition.solution(task) for task in TASKS}
    reads = {
        recipe.work / f"{task}{kind}.csv": made_by(step)
        for task, step in (("retrieval", "05_retrieve"), ("recognition", "06_recognize"))
        for kind in ("", "_plain")
    }
    reads |= {competition.table(f"{split}.csv"): "it belongs to the data" for split in ("train", "index", "test")}
    reads |= {path: "" for path in (competition.submission_table, *solutions.values()) if path}
    if competition.table("landmarks.csv").exists():
        reads[competition.table("landmarks.csv")] = ""
    job = open_job(recipe, "07_submit", reads=reads, writes=[retrieval, recognition, scores, picture, answers])
    if job.is_done():
        print(f"07 submit: up to date ({folder})")
    else:
        job.start()
        submit(recipe, competition, retrieval, recognition)
        write_json(scores, score(recipe, solutions))
        from landmark.report import draw_retrieved, write_answers

        draw_retrieved(picture, competition, read_retrieval(retrieval), solutions["retrieval"])
        write_answers(answers, competition, read_recognition(recognition))
        job.finish()
    show(scores)
    print(f"submissions: {retrieval}, {recognition}")
    print(f"to look at: {picture}, {answers}")
    if competitions:
        upload(recipe, competition, competitions, message, dry_run, wait)


def submit(recipe: Recipe, competition: Competition, retrieval: Path, recognition: Path) -> None:
    """Write both submissions with a row for every test image, and validate what lies on disk."""
    test_ids = competition.submission_ids()
    ranked = read_retrieval(recipe.work / "retrieval.csv")
    write_retrieval(retrieval, test_ids, [ranked.get(i, []) for i in test_ids])
    check_submission(competition, "retrieval", retrieval)
    predicted = read_recognition(recipe.work / "recognition.csv")
    labels, scores = zip(*(predicted.get(i, (None, 0.0)) for i in test_ids), strict=True)
    write_recognition(recognition, test_ids, labels, scores)
    check_submission(competition, "recognition", recognition)


def score(recipe: Recipe, solutions: dict[str, Path | None]) -> dict:
    """What scores.json holds, as far as the solutions are there; empty without any.

    "plain" is before re-ranking, and before the inlier term and the ban. "intervals" are those of 95 % on all
    rows, "gain" the final submission's lead over the plain one on the same drawn images; "figures" are the
    final submission's.
    """
    scores, intervals, figures = {}, {}, {}
    for name, task in TASKS.items():
        if not solutions[name]:
            continue
        solution, metric = read_solution(solutions[name], name), task.metric
        scores[name], samples = {}, {}
        for kind in ("_plain", ""):
            predictions = task.read(recipe.work / f"{name}{kind}.csv")
            # The final submission comes last, so that its figures stay.
            figures[name] = task.figures(solution, predictions)
            scores[name][metric + kind] = figures[name].pop(metric)
            samples[metric + kind] = task.samples(solution, predictions)["all"]
        samples["gain"] = samples[metric] - samples[f"{metric}_plain"]
        intervals[name] = {of: interval(values) for of, values in samples.items()}
    return scores | {"intervals": intervals, "figures": figures} if scores else {}


def show(path: Path) -> None:
    """Print scores.json as a table."""
    import json

    scores = json.loads(path.read_text(encoding="utf-8"))
    if not scores:
        print("07 submit: no solutions beside the data, so nothing is scored")
        return
    # A scores.json of an earlier version of this step has neither of the two.
    intervals, figures = scores.pop("intervals", {}), scores.pop("figures", {})
    print(f"{'':28}{'all':>9}{'all, 95 %':>19}{'Public':>9}{'Private':>9}")
    for task, figure in scores.items():
        known = intervals.get(task, {})
        for name, values in figure.items():
            print(table_row(f"{task} {name}", values, known.get(name)))
        metric = TASKS[task].metric
        final, plain = figure[metric], figure[f"{metric}_plain"]
        gain = {s: None if final[s] is None else final[s] - plain[s] for s in SUBSETS}
        print(table_row(f"{task} gain", gain, known.get("gain"), "+.4f"))
    for task, others in figures.items():
        # By length, so that mp5 stands before mp10.
        for name, values in sorted(others.items(), key=lambda item: (len(item[0]), item[0])):
            print(table_row(f"{task} {name}", values, None))


def table_row(name: str, values: dict, bounds: list[float] | None, digits: str = ".4f") -> str:
    """A line of the table: figures by subset, and between all and Public the interval, where there is one."""
    cells = {s: "-" if values[s] is None else format(values[s], digits) for s in SUBSETS}
    between = " … ".join(format(bound, digits) for bound in bounds) if bounds else ""
    return f"{name:28}{cells['all']:>9}{between:>19}{cells['Public']:>9}{cells['Private']:>9}"


if __name__ == "__main__":
    run_step(main, flags=FLAGS)
