"""What a notebook's session starts with: its models, and its data."""

from pathlib import Path

import pytest

from landmark.kaggle_kit import inference_files
from landmark.kaggle_session import Session
from landmark.plan import job_settings
from landmark.recipe import load_recipe
from landmark.store import write_json


@pytest.fixture
def kaggle(tmp_path, monkeypatch) -> Path:
    """Kaggle's folders, the kit among them."""
    for module in ("recipe", "kaggle_session"):
        monkeypatch.setattr(f"landmark.{module}.ROOT", tmp_path / "temp/kit")
    return tmp_path


def start(kaggle: Path, recipe: str, *overrides: str) -> Session:
    return Session(
        kaggle / "input/kit", kaggle / "input", kaggle / "working", recipe, list(overrides), "retrieval", None
    )


def test_models_are_ready_where_all_that_the_settings_want_is_attached(kaggle, capsys):
    recipe = load_recipe("sample", ["gallery=all"])
    for path in inference_files(recipe):
        attached = kaggle / "input/kit/checkpoints/main" / path.relative_to(recipe.work)
        attached.parent.mkdir(parents=True, exist_ok=True)
        attached.write_bytes(b"weights")
    start(kaggle, "sample", "gallery=all")
    assert "models: ready" in capsys.readouterr().out
    start(kaggle, "sample", "gallery=clean")
    assert "models: to be trained, as clean_decisions.csv is not attached" in capsys.readouterr().out
    record = kaggle / "input/kit/checkpoints/main/done/02_train-arcface.json"
    write_json(record, {"settings": {**job_settings(recipe)["02_train-arcface"], "images": None}})
    start(kaggle, "sample", "gallery=all")
    assert "models: ready" in capsys.readouterr().out
    start(kaggle, "sample", "gallery=all", "models.arcface.training.dim=32")
    printed = capsys.readouterr().out
    assert "models: to be trained, as the results of step 02 were made with other settings" in printed
    assert "dim was 512, is now 32\n" in printed
    # What an earlier round of the same notebook trained was not attached: the steps tell whether it is up to date.
    (recipe.work / "clean_decisions.csv").write_bytes(b"")
    start(kaggle, "sample", "gallery=clean")
    assert "models: to be trained" in capsys.readouterr().out


def test_scores_of_a_trial_without_anything_to_find_are_empty(kaggle):
    session = start(kaggle, "sample")
    nothing = {"all": None, "Public": None, "Private": None}
    scores = {"retrieval": {"map100": nothing}, "intervals": {"retrieval": {"map100": None}}, "figures": {}}
    write_json(session.recipe.submissions / "scores.json", scores)
    assert session.scores().loc["retrieval map100"].isna().all()


def test_data_that_the_settings_name_is_taken(kaggle):
    for name in ("zoo", "houses"):
        for number in range(8):
            path = kaggle / f"input/{name}/class {number % 2}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    assert start(kaggle, "photos").recipe.data == kaggle / "input/houses"
    assert start(kaggle, "photos", f"data={kaggle / 'input/zoo'}").recipe.data == kaggle / "input/zoo"
