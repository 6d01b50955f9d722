"""What the cells of the Kaggle notebook call: prepare a run, run its steps, show and hand in what came of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from landmark.competition import open_competition
from landmark.errors import UserError
from landmark.judging import check_submission
from landmark.kaggle_input import cut_data, find_data
from landmark.kaggle_kit import inference_files, missing_models
from landmark.packages import part_of
from landmark.recipe import CARRIED, ROOT, Recipe, load_recipe
from landmark.store import atomic_path

_RESULTS = ("retrieval.csv", "recognition.csv", "scores.json", "retrieved.jpg", "answers.csv")
_TRAINING = ("01", "02", "03")


class Session:
    """A run of a recipe in the notebook.

    dataset: the folder of the kit's dataset; models in its checkpoints/ take the place of steps 01 to 03, where
    none is missing and none was made with other settings. root: where data is mounted; looked for there, unless
    the overrides name it. working: the folder that Kaggle keeps. task: whose submission is handed in. cut: images
    that a split is cut to, unless Kaggle runs the notebook anew to score it; None: never. A rendered sample is not
    cut.
    """

    def __init__(
        self, dataset: Path, root: Path, working: Path, name: str, overrides: list[str], task: str, cut: int | None
    ):
        self.working, self.task = Path(working), task
        recipe = load_recipe(name, [f"data={root}", *overrides])
        if recipe.sample is None:
            overrides = [*overrides, f"data={_data(recipe, Path(root), task, cut)}"]
        self.recipe = load_recipe(name, overrides)
        self._arguments = ["--recipe", name, "--set", *overrides] if overrides else ["--recipe", name]
        print(f"data: {self.recipe.data}")
        why = _attach(part_of(dataset, "checkpoints", ROOT), self.recipe)
        self._trained = why is None
        print("models:", f"to be trained, as {why}" if why else "ready")

    def run(self, step: str, *arguments: str) -> None:
        """Run a numbered script, such as "04_extract", and show what it says as it says it."""
        if self._trained and step[:2] in _TRAINING:
            print(f"{step}: nothing to do, the models are ready")
            return
        command = [sys.executable, str(ROOT / "src" / f"{step}.py"), *self._arguments, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
        if process.returncode:
            raise UserError(f"step {step} ended with code {process.returncode}; what it said stands above")

    def scores(self) -> pd.DataFrame | str:
        """The table of scores, where the data has solutions."""
        scores = json.loads((self.recipe.submissions / "scores.json").read_text(encoding="utf-8"))
        intervals = scores.pop("intervals", {})
        scores.pop("figures", None)
        rows = {
            f"{task} {metric}": values
            | dict(zip(("from", "to"), intervals[task][metric] or (None, None), strict=True))
            for task, metrics in scores.items()
            for metric, values in metrics.items()
        }
        if not rows:
            return "no solutions beside the data, so nothing is scored"
        table = pd.DataFrame(rows, index=["all", "from", "to", "Public", "Private"]).T.astype(float).round(4)
        return table.rename(columns={"from": "95 % from"})

    def picture(self):
        """What was retrieved, as an image of the notebook."""
        from IPython.display import Image

        return Image(filename=self.recipe.submissions / "retrieved.jpg")

    def submit(self) -> None:
        """Copy the results to the working folder; the task's are also its submission.csv, which is validated."""
        for name in _RESULTS:
            _copy(self.recipe.submissions / name, self.working / name)
        submission = self.working / "submission.csv"
        _copy(self.recipe.submissions / f"{self.task}.csv", submission)
        competition = open_competition(self.recipe)
        check_submission(competition, self.task, submission)
        print(f"{self.task}: {len(competition.submission_ids())} test images -> {submission}")


def _data(recipe: Recipe, root: Path, task: str, cut: int | None) -> Path:
    """The folder with the run's data, cut where this is not the run that counts."""
    competitions, dataset = recipe.kaggle.competitions, (recipe.kaggle.dataset or "").partition("/")[2]
    favourites = filter(None, [competitions.get(task), *competitions.values(), dataset])
    folders, data = ROOT / "input", recipe.data
    if data == root.resolve():
        data = find_data(root, list(favourites), folders / "attached")
    if cut is None or os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        return data
    if not cut_data(open_competition(recipe.model_copy(update={"data": data})), folders / "cut", cut):
        return data
    print(f"a trial run: at most {cut} images a split")
    return folders / "cut"


def _attach(checkpoints: Path | None, recipe: Recipe) -> str | None:
    """Link the attached weights to where the steps expect them; why models are to be trained all the same."""
    places = {"weights": CARRIED, "main": recipe.work}
    if recipe.bootstrap:
        places["bootstrap"] = recipe.bootstrap.work
    attached = set()
    for name, place in places.items() if checkpoints else ():
        for path in (checkpoints / name).rglob("*.*"):
            link = place / path.relative_to(checkpoints / name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(path.absolute())
            attached.add(link)
    for path in inference_files(recipe):
        if path not in attached:
            return f"{path.name} is not attached"
    try:
        missing_models(recipe)
    except UserError as error:
        return str(error).partition(";")[0]  # without its way out, which is gone already
    return None


def _copy(path: Path, target: Path) -> None:
    with atomic_path(target) as part:
        shutil.copyfile(path, part)
