"""Step 07: write, validate and, where the solutions are there, score both submissions.

Reads   input/<run>/{retrieval,recognition}{,_plain}.csv and the competition's solutions
Writes  submissions/<run>/retrieval.csv, recognition.csv, scores.json, the picture retrieved.jpg, and
        answers.csv with a name and a path per photograph
Run     python src/07_submit.py --recipe sample
"""

from pathlib import Path

from landmark.cli import run_step
from landmark.competition import Competition, open_competition
from landmark.plan import made_by, open_job
from landmark.recipe import Recipe
from landmark.store import write_json
from landmark.submission import (
    read_recognition,
    read_retrieval,
    read_solution,
    score_recognition,
    score_retrieval,
    validate_recognition,
    validate_retrieval,
    write_recognition,
    write_retrieval,
)


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    folder = recipe.submissions
    retrieval, recognition = folder / "retrieval.csv", folder / "recognition.csv"
    scores, picture, answers = folder / "scores.json", folder / "retrieved.jpg", folder / "answers.csv"
    solutions = {task: competition.solution(task) for task in ("retrieval", "recognition")}
    reads = {
        recipe.work / f"{task}{kind}.csv": made_by(step)
        for task, step in (("retrieval", "05_retrieve"), ("recognition", "06_recognize"))
        for kind in ("", "_plain")
    }
    reads |= {competition.table(f"{split}.csv"): "it belongs to the data" for split in ("train", "index", "test")}
    reads |= {path: "" for path in solutions.values() if path}
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


def submit(recipe: Recipe, competition: Competition, retrieval: Path, recognition: Path) -> None:
    """Write both submissions with a row for every test image, and validate what lies on disk."""
    test_ids = competition.ids("test")
    ranked = read_retrieval(recipe.work / "retrieval.csv")
    write_retrieval(retrieval, test_ids, [ranked.get(i, []) for i in test_ids])
    validate_retrieval(retrieval, test_ids, competition.ids("index"))
    predicted = read_recognition(recipe.work / "recognition.csv")
    labels, scores = zip(*(predicted.get(i, (None, 0.0)) for i in test_ids), strict=True)
    write_recognition(recognition, test_ids, labels, scores)
    validate_recognition(recognition, test_ids, competition.train["landmark_id"].tolist())


def score(recipe: Recipe, solutions: dict[str, Path | None]) -> dict:
    """mAP@100 and GAP for all, Public and Private rows, as far as the solutions are there.

    "plain" is before re-ranking, and before the inlier term and the ban.
    """
    scores = {}
    if solutions["retrieval"]:
        truth = read_solution(solutions["retrieval"], "retrieval")
        scores["retrieval"] = {
            name: score_retrieval(truth, read_retrieval(recipe.work / file))
            for name, file in (("map100_plain", "retrieval_plain.csv"), ("map100", "retrieval.csv"))
        }
    if solutions["recognition"]:
        truth = read_solution(solutions["recognition"], "recognition")
        scores["recognition"] = {
            name: score_recognition(truth, read_recognition(recipe.work / file))
            for name, file in (("gap_plain", "recognition_plain.csv"), ("gap", "recognition.csv"))
        }
    return scores


def show(path: Path) -> None:
    """Print scores.json as a table."""
    import json

    scores = json.loads(path.read_text(encoding="utf-8"))
    if not scores:
        print("07 submit: no solutions beside the data, so nothing is scored")
        return
    print(f"{'':28}{'all':>9}{'Public':>9}{'Private':>9}")
    for task, figures in scores.items():
        for name, values in figures.items():
            cells = (values[subset] for subset in ("all", "Public", "Private"))
            print(f"{task + ' ' + name:28}" + "".join(f"{'-' if v is None else f'{v:.4f}':>9}" for v in cells))


if __name__ == "__main__":
    run_step(main)
