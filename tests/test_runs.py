"""A run's folder: held by one process, of one data set."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from landmark.errors import UserError
from landmark.recipe import load_recipe
from landmark.runs import hold_run


@pytest.fixture
def recipe_for(tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)

    def load(folder, *more):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        return load_recipe("photos", [f"data={tmp_path / folder}", *more])

    return load


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


def test_a_forked_process_does_not_hold_the_run_on(recipe_for):
    """As a loader's process, which outlives for seconds the one that was killed."""
    recipe = recipe_for("a/paris")
    with hold_run(recipe):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with hold_run(recipe):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_steps_for_different_models_work_at_the_same_time_and_nothing_beside_them(recipe_for):
    recipe = recipe_for("a/paris")
    with hold_run(recipe, ["first"]):
        with hold_run(recipe, ["second", "third"]):
            pass
        for models in (["second", "first"], []):
            with pytest.raises(UserError, match="another step is at work"), hold_run(recipe, models):
                pass
        with hold_run(recipe, ["second"]):  # let go when it was refused
            pass
    with hold_run(recipe), pytest.raises(UserError, match="at work"), hold_run(recipe, ["first"]):
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
    with pytest.raises(RuntimeError), hold_run(recipe):
        raise RuntimeError
    assert not (recipe.work / "recipe.json").exists()
    with hold_run(recipe):
        pass
    saved = json.loads((recipe.work / "recipe.json").read_text())
    assert saved["seed"] == 4 and saved["models"][0]["name"] == "imagenet" and saved["data"].endswith("paris")


def test_data_that_is_not_there_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    for name, message in (("nope", "nope is not there"), ("a.jpg", "a.jpg is a file, not a folder")):
        with pytest.raises(UserError, match=message), hold_run(load_recipe("photos", [f"data={tmp_path / name}"])):
            pass
    assert not (tmp_path / "input").exists()
