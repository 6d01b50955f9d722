"""A copy of the project in a temporary folder, so that tests leave the user's input/ and submissions/ alone."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from bucket import SHARDS, miniature, serve
from kaggle_server import KaggleServer

from landmark.ranks import ALONE
from landmark.recipe import load_recipe
from landmark.sample import render_competition
from landmark.settings import Sample
from landmark.stepper import Run

SOURCE = Path(__file__).resolve().parents[1]
SHARED = SOURCE.parent / "shared"

# Small enough for seconds; every part of the method is in it.
TINY = {
    "data": "input/tiny_data",
    "sample": {"landmarks": 4, "train_views": 8, "index_views": 3, "test_views": 2, "longest_side": 256},
    "cleaning": {
        "representation": {"longest_side": 160, "scales": [1.0], "batch_size": 16},
        "more_than": 0,
        "agreement": {"neighbours": 3, "min_support": 0.1},
    },
    "verification": {"min_inliers": 7},
    "models": [
        {"name": "imagenet", "loss": None, "weight": 0.7},
        {
            "name": "arcface",
            "backbone": "test_resnet",
            "weights": "none",
            "weight": 0.3,
            "training": {
                "stages": [{"augmentation": "soft", "epochs": 1}, {"augmentation": "hard", "epochs": 2}],
                "sizes": "XS",
                "batch_size": 8,
                "dim": 64,
            },
            "finetune": {"sizes": "XS", "batch_size": 8},
        },
    ],
    "extraction": {"longest_side": 160, "scales": [0.75, 1.0], "batch_size": 16},
}


def run_in(folder: Path, key: str = "k", seed: int = 5, **recipe) -> Run:
    """A training run on the CPU whose files lie in `folder`, as model m; `recipe`: settings of a whole run."""
    recipe = load_recipe("sample").model_copy(update=recipe)
    # Joined to the project's input/ an absolute path stays what it is.
    recipe = recipe.model_copy(update={"run": str(folder)})
    return Run(recipe, "test", folder / "models" / "m.pt", key, seed, torch.device("cpu"), ALONE)


def copy_project(folder: Path) -> Path:
    shutil.copytree(SOURCE / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.sh", "requirements.txt", "LICENSE"):
        shutil.copy(SOURCE / name, folder)
    (folder / "src/recipes/tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """The tiny sample competition, rendered once."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    render_competition(folder, Sample(**TINY["sample"]), seed=2019, workers=2)
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A fresh copy of the project, with the recipe `tiny`."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def run_step(project):
    """Run a step of the copy as a user does; fail unless it ends as expected. Returns stdout and stderr."""

    def run(step: str, *arguments: str, fails: bool = False, cwd: Path | None = None) -> tuple[str, str]:
        command = [sys.executable, str(project / "src" / f"{step}.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd or project, check=False)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture
def run_sh(project):
    """Run the copy's run.sh with this very Python; returns the finished process."""

    def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        # As in an active environment: run.sh makes none of its own.
        active = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["bash", str(project / "run.sh"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd or project, env=os.environ | active, check=False
        )

    return run


@pytest.fixture
def kaggle():
    """A small Kaggle on this machine."""
    server = KaggleServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.stall.set()
    server.shutdown()
    server.server_close()
    assert "CONNECT" not in server.names()


@pytest.fixture
def signed_in(kaggle, tmp_path, monkeypatch) -> KaggleServer:
    """The small Kaggle, to which this process's client talks."""
    for name, value in kaggle.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return kaggle


@pytest.fixture
def bucket(tmp_path):
    """A server of the miniature bucket (see bucket.BucketServer)."""
    with serve(miniature(tmp_path / "bucket")) as server:
        yield server


@pytest.fixture
def bucket_settings(bucket, tmp_path) -> list[str]:
    """Values for --set by which a recipe downloads it into data/."""
    counts = ", ".join(f"{split}: {len(shards)}" for split, shards in SHARDS.items())
    url, shards = f"bucket.url={bucket.url}", f"bucket.shards={{{counts}}}"
    return [f"data={tmp_path / 'data'}", url, shards, "bucket.connections=2", "workers=1"]


@pytest.fixture
def run_download(run_step, bucket_settings):
    """Download from it as a user does, with more settings and arguments; returns stdout and stderr."""

    def run(*arguments: str, fails: bool = False, more: tuple[str, ...] = ()) -> tuple[str, str]:
        return run_step(
            "download", "--recipe", "gld2019", "--set", *bucket_settings, *more, *arguments, fails=fails
        )

    return run
