"""A run's folder: held by one process, of one data set."""

import json
import subprocess
import sys

import pytest

from landmark.errors import UserError
from landmark.recipe import load_recipe
from landmark.runs import hold_run


@pytest.fixture
def recipe_for(tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    return lambda folder, *more: load_recipe("photos", [f"data={tmp_path / folder}", *more])


def test_a_run_is_held_by_one_process_and_free_again_when_that_is_killed(recipe_for):
    recipe = recipe_for("a/paris")
    recipe.work.mkdir(parents=True)
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(recipe.work / ".lock")]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another step is at work"), hold_run(recipe):
        pass
    held.kill()
    held.wait()
    with hold_run(recipe):
        pass


def test_two_folders_of_one_name_do_not_share_a_run(recipe_for):
    with hold_run(recipe_for("a/paris")):
        pass
    message = "was made from .*a/paris, not .*b/paris; add --set run=NAME"
    with pytest.raises(UserError, match=message), hold_run(recipe_for("b/paris")):
        pass
    with hold_run(recipe_for("b/paris", "run=other")):
        pass


def test_the_recipe_lies_beside_what_it_made(recipe_for):
    recipe = recipe_for("paris", "seed=4")
    with hold_run(recipe):
        saved = json.loads((recipe.work / "recipe.json").read_text())
    assert saved["seed"] == 4 and saved["models"][0]["name"] == "imagenet" and saved["data"].endswith("paris")
