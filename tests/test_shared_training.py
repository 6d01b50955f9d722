"""Training shared by the processes of torchrun: the curve of one, and on from a checkpoint when one dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from test_shared_work import TORCHRUN

# Trains as landmark.training does, in each process of torchrun or alone, and saves what came out.
JOB = """
import json, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = json.loads(sys.argv[1])
from conftest import run_in
from landmark import training
from landmark.checkpoints import save_model
from landmark.losses import cosine_head
from landmark.network import DescriptorNet
from landmark.ranks import open_ranks
from landmark.recipe import load_recipe
from landmark.settings import Training
from landmark.trainset import TrainSet

folder, options = Path(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
table = json.loads((folder.parent / "images.json").read_text())
data = TrainSet.of(table["paths"], table["sizes"], table["labels"])
settings = Training(stages=[{"augmentation": "soft", "epochs": 2}], sizes="XS", dim=8,
                    learning_rate=1e-4, head_learning_rate=1e-2, precision="fp32", **options["settings"])
with open_ranks() as ranks:
    torch.manual_seed(5)
    net = DescriptorNet(options["backbone"], 8)
    head = cosine_head(8, 5, options["loss"], 0.3, 30, settings.sample_rate, ranks)
    run = replace(run_in(folder, checkpoint_steps=2), ranks=ranks)
    net = training.train(net, head, data, settings, run)
    save_model(folder / "model.pt", net, head, [1, 2, 3, 4, 5], run.recipe.models[1], run.recipe, ranks)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Five landmarks of four photographs, of two aspects."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shared")
    table = {"paths": [], "sizes": [], "labels": []}
    for i in range(20):
        shape = (48, 80) if i % 3 else (80, 48)
        image = rng.integers(0, 60, (*shape, 3))
        image[:, :: 3 + i % 5, i % 3] += 150
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
        table["paths"].append(str(folder / f"{i}.png"))
        table["sizes"].append(shape)
        table["labels"].append(i % 5)
    (folder / "images.json").write_text(json.dumps(table))
    (folder / "job.py").write_text(JOB)
    return folder


@pytest.mark.parametrize(
    ("backbone", "loss", "settings"),
    [
        ("test_efficientnet", "arcface", {"accumulate": 2, "class_weight": 0.5, "batch_size": 14}),
        ("test_resnet", "adacos", {"batch_size": 7, "ema": 0.5}),
        ("test_convnext", "cosface", {"batch_size": 7, "sample_rate": 1.0}),
    ],
)
def test_two_processes_with_half_the_batch_each_follow_the_curve_of_one(photographs, backbone, loss, settings):
    """Batch norm, the labels shared out among the processes, and the margin of each loss, all the way through."""
    outcomes = {}
    for name, start in (("alone", [sys.executable]), ("together", TORCHRUN)):
        folder = photographs / f"{name}-{backbone}-{loss}"
        options = json.dumps({"backbone": backbone, "loss": loss, "settings": settings})
        command = [*start, str(photographs / "job.py"), json.dumps(sys.path), str(folder), options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        curve = pd.read_csv(folder / "models/m.steps.csv")["loss"].to_numpy()
        outcomes[name] = curve, torch.load(folder / "model.pt", weights_only=True)
    (alone, model), (together, shared) = outcomes["alone"], outcomes["together"]
    assert len(alone) >= 4 and np.ptp(alone) > 0.1
    np.testing.assert_allclose(together, alone, rtol=2e-3)
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    for part in ("net", "head"):
        for key, value in model[part].items():
            if value.is_floating_point():
                torch.testing.assert_close(shared[part][key], value, rtol=2e-2, atol=2e-3)


def test_a_dead_process_is_started_again_and_training_goes_on_to_the_same_bytes(project, tiny_data, run_step):
    shutil.copytree(tiny_data, project / "input/tiny_data")
    options = ["--recipe", "tiny", "--set", "checkpoint_steps=2"]
    run_step("01_clean", "--recipe", "tiny")
    script = [str(project / "src/02_train.py"), *options]
    models = project / "input/tiny/models"
    subprocess.run([*TORCHRUN, *script], check=True, capture_output=True, timeout=200)
    undisturbed = {path.name: path.read_bytes() for path in models.iterdir()}
    assert "up to date" in run_step("02_train", *options)[0]
    shutil.rmtree(models)

    command = [*TORCHRUN, "--max-restarts", "1", *script]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = models / "arcface.checkpoints"
    while not list(folder.glob("*/step-000000004.pt")):
        assert running.poll() is None
        time.sleep(0.01)
    ranks = [int(p) for p in os.popen(f"pgrep -P {running.pid}").read().split()]
    os.kill(ranks[1], signal.SIGKILL)
    shown, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "02 train: arcface: going on after step" in shown
    assert {path.name: path.read_bytes() for path in models.iterdir()} == undisturbed
