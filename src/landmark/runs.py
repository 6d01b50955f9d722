"""A run's folder: one process at a time, one data set for good, and the recipe beside what it made."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from landmark.competition import check_folder
from landmark.errors import UserError
from landmark.recipe import ROOT, Recipe
from landmark.store import write_json


@contextmanager
def hold_run(recipe: Recipe, models: Sequence[str] = ()) -> Iterator[None]:
    """Hold the run's folder while a step works; when it has ended well, leave its recipe there as recipe.json.

    models: those that the step works on, if not on all; a step for others may then work at the same time.
    Raises UserError when another process holds it, or when it was made from other data. The system lets the locks
    go when the process ends, however it ends.
    """
    check_folder(recipe)  # before a folder is made for data that is not there
    recipe.work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        try:
            locks.enter_context(locked(recipe.work / ".lock", fcntl.LOCK_SH if models else fcntl.LOCK_EX))
            for model in sorted(set(models)):
                locks.enter_context(locked(recipe.work / f".lock-{model}", fcntl.LOCK_EX))
        except BlockingIOError:
            raise UserError(f"another step is at work in {recipe.work}; wait for it, or set run=NAME") from None
        path, settings = recipe.work / "recipe.json", _as_json(recipe)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
        if known["data"] != settings["data"]:
            raise UserError(
                f"{recipe.work} was made from {known['data']}, not {settings['data']}; add --set run=NAME to keep"
                " both, or delete that folder"
            )
        yield
        if known != settings or not path.exists():
            write_json(path, settings)


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock file, for as long as the process lives at most. Raises BlockingIOError when another holds it."""
    with path.open("a") as file:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        # A loader process would hold it on for some seconds after this one was killed.
        os.register_at_fork(after_in_child=file.close)
        yield


def _as_json(recipe: Recipe) -> dict:
    settings = recipe.model_dump(mode="json")
    if recipe.data.is_relative_to(ROOT):
        # Data inside the project may move with it.
        settings["data"] = recipe.data.relative_to(ROOT).as_posix()
    return settings
