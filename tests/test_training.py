"""The schedule, the step in all its ways, and training that goes on after a kill."""

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
from conftest import run_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from landmark import training
from landmark.checkpoints import load_model, save_model
from landmark.errors import UserError
from landmark.losses import CosineHead, cosine_head
from landmark.network import DescriptorNet, load_backbone, load_torch
from landmark.ranks import ALONE
from landmark.recipe import load_recipe
from landmark.settings import Finetune, Model, Training
from landmark.stepper import Stepper, class_weights, make_optimizer
from landmark.training_log import history_files
from landmark.trainset import TrainSet

MODEL = Model(name="m", backbone="test_resnet", training={"dim": 8})
SETTINGS = Training(
    stages=[{"augmentation": "soft", "epochs": 1}, {"augmentation": "hard", "epochs": 2}],
    sizes="XS",
    batch_size=4,
    dim=8,
)


def changed(**settings) -> Training:
    return Training(**(SETTINGS.model_dump() | settings))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_schedule_is_a_cosine_per_step_and_ends_where_it_should(optimizer):
    net, head = DescriptorNet("test_resnet", 8), CosineHead(8, 3, "arcface", 0.3, 30)
    settings = Training(learning_rate=0.1, head_learning_rate=1.0, optimizer=optimizer)
    optimizer, annealing = make_optimizer(net, head, settings, steps=10)
    rates = [annealing.get_last_lr()]
    for _ in range(10):
        optimizer.step()
        annealing.step()
        rates.append(annealing.get_last_lr())
    for group, start in enumerate((0.1, 1.0)):
        expected = [3e-6 + (start - 3e-6) * (1 + np.cos(np.pi * t / 10)) / 2 for t in range(11)]
        np.testing.assert_allclose([r[group] for r in rates], expected, rtol=1e-6)
    backbone, fresh = optimizer.param_groups
    assert len(fresh["params"]) == len(list(net.neck.parameters())) + 1
    assert len(backbone["params"]) == len(list(net.backbone.parameters()))


def test_class_weights_are_powers_of_the_count_and_one_on_average():
    labels = np.repeat([0, 1, 2], [1, 4, 16])
    weights = class_weights(labels, 0.5).numpy()
    np.testing.assert_allclose(weights / weights[0], [1, 1 / 2, 1 / 4], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(labels, 0.0).tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TrainSet:
    """Three landmarks of four photographs: a colour and stripes each, wide and tall."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    paths, labels, sizes = [], [], []
    for label in range(3):
        for view in range(4):
            shape = (48, 80) if view % 2 else (80, 48)
            image = rng.integers(0, 60, (*shape, 3))
            image[:, :: 3 + label, label] += 150
            paths.append(folder / f"{label}{view}.png")
            cv2.imwrite(str(paths[-1]), image.astype(np.uint8))
            labels.append(label)
            sizes.append(shape)
    return TrainSet.of(paths, sizes, labels)


def fit(data, run, settings=SETTINGS, **options):
    torch.manual_seed(run.seed)
    net = DescriptorNet("test_resnet", 8)
    head = cosine_head(8, 3, "arcface", 0.3, 30, settings.sample_rate, ALONE)
    net = training.train(net, head, data, settings, run, **options)
    return {**net.state_dict(), "centres": head.centres.detach()}


def history(run) -> list[dict]:
    return pd.read_csv(history_files(run.target)[0]).to_dict("records")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 6, "ema": 0.5, "accumulate": 2, "class_weight": 0.5, "images_per_class": 3},
        {"sample_rate": 0.5},
        {"optimizer": "adamw"},
    ],
    ids=["plain", "average", "sampled", "adamw"],
)
def test_killed_at_any_step_training_ends_with_the_same_weights_and_logs(data, tmp_path, monkeypatch, settings):
    settings = changed(**settings)
    whole = run_in(tmp_path / "whole", checkpoint_steps=2)
    weights = fit(data, whole, settings)
    files = [path.read_bytes() for path in history_files(whole.target)]
    steps = len(files[1].splitlines()) - 1
    assert [row["augmentation"] for row in history(whole)] == ["soft", "hard", "hard"]
    real = Stepper.step
    for step_of_death in (1, 3, 4, 5, steps):
        broken = run_in(tmp_path / f"broken{step_of_death}", checkpoint_steps=2)

        def dying(self, number, *arguments, last=step_of_death):
            if number == last - 1:
                raise KeyboardInterrupt
            return real(self, number, *arguments)

        monkeypatch.setattr(Stepper, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            fit(data, broken, settings)
        monkeypatch.setattr(Stepper, "step", real)
        assert same(fit(data, broken, settings), weights)
        assert [path.read_bytes() for path in history_files(broken.target)] == files


def test_a_checkpoint_of_a_device_without_a_scaler_goes_on_on_one_with(data, tmp_path):
    run = run_in(tmp_path, checkpoint_steps=1)
    fit(data, run, changed(precision="fp32"))
    (tmp_path / "models/m.checkpoints/k/step-000000012.pt").unlink()
    fit(data, run, changed(precision="fp16"))


def test_old_checkpoints_go_and_what_is_left_holds_settings_as_text(data, tmp_path):
    run = run_in(tmp_path, checkpoint_steps=1)
    fit(data, run)
    left = sorted((tmp_path / "models/m.checkpoints/k").iterdir())
    assert [path.name for path in left] == ["step-000000011.pt", "step-000000012.pt"]
    saved = torch.load(left[-1], weights_only=True)
    assert json.loads(saved["recipe"])["models"][1]["name"] == "arcface"
    assert json.loads(saved["position"])["step"] == 12


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(data, tmp_path, capsys):
    weights = fit(data, run_in(tmp_path / "whole"))
    run = run_in(tmp_path / "damaged", checkpoint_steps=1)
    fit(data, run)
    newest = max((tmp_path / "damaged/models/m.checkpoints/k").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(fit(data, run), weights)
    shown = capsys.readouterr().out
    assert f"passing over a checkpoint: {newest}" in shown and "going on after step 11 of 12" in shown


def test_a_checkpoint_of_other_settings_is_not_continued(data, tmp_path):
    fit(data, run_in(tmp_path / "a", key="old"))
    other = fit(data, run_in(tmp_path / "a", key="new", seed=6))
    fresh = fit(data, run_in(tmp_path / "b", key="new", seed=6))
    assert same(other, fresh)


def test_training_brings_the_loss_down_and_the_log_tells_it(data, tmp_path):
    stages = [{"augmentation": "soft", "epochs": 4}]
    run = run_in(tmp_path)
    settings = changed(stages=stages, batch_size=6, head_learning_rate=3e-3)
    fit(data, run, settings, judge=lambda net: {"top1": 0.25, "map": 0.5})
    rows = history(run)
    assert rows[0]["loss"] > 5 and rows[-1]["loss"] < 1
    assert rows[-1]["learning_rate"] == pytest.approx(3e-6)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows[2]["top1"] == 0.25 and rows[2]["map"] == 0.5
    steps = pd.read_csv(history_files(run.target)[1])
    assert steps["step"].tolist() == list(range(1, 9)) and steps["epoch"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert steps["loss"][:2].mean() == pytest.approx(rows[0]["loss"], abs=1e-4)
    assert steps["learning_rate"][0] == 1e-3
    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [e.step for e in events.Scalars("step/loss")] == list(range(1, 9))
    np.testing.assert_allclose([e.value for e in events.Scalars("step/loss")], steps["loss"], rtol=1e-6)
    assert events.Scalars("epoch/map")[-1].step == 8 and len(events.Scalars("epoch/top1")) == 4


def test_fine_tuning_leaves_every_batch_norm_where_it_was(data, tmp_path):
    torch.manual_seed(5)
    before = DescriptorNet("test_resnet", 8).state_dict()
    settings = Finetune(sizes="XS", batch_size=4, head_learning_rate=0.1, learning_rate=0.1)
    net, head = DescriptorNet("test_resnet", 8), CosineHead(8, 3, "arcface", 0.3, 30)
    net.load_state_dict(before)
    after = training.train(net, head, data, settings, run_in(tmp_path), frozen_batch_norm=True).state_dict()
    norms = [k for k in before if k.endswith("running_mean")]
    assert norms and all(torch.equal(before[k], after[k]) for k in norms)
    affine = [k.replace("running_mean", "weight") for k in norms]
    assert all(torch.equal(before[k], after[k]) for k in affine)
    assert not torch.equal(before["neck.0.weight"], after["neck.0.weight"])


class Still(nn.Module):
    """A DescriptorNet's outside without batch norm, so that parts of a batch do not meet in it."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 8)

    normalisation = DescriptorNet.normalisation

    def forward(self, images):
        return self.neck(self.backbone(images).relu().mean(dim=(2, 3)))


def stepped(data, folder, **settings):
    """The weights after one epoch of a net without batch norm."""
    torch.manual_seed(5)
    net, head = Still(), CosineHead(8, 3, "arcface", 0.3, 30)
    net.backbone.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    defaults = {"stages": [{"augmentation": "soft", "epochs": 1}], "batch_size": 6, "precision": "fp32"}
    settings = changed(**(defaults | settings))
    result = training.train(net, head, data, settings, run_in(folder))
    return result.state_dict() | {"centres": head.centres.detach()}


def close(a: dict, b: dict, tolerance: float) -> bool:
    return all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


def test_accumulated_parts_make_the_step_of_the_whole_batch(data, tmp_path):
    whole = stepped(data, tmp_path / "a", learning_rate=0.1)
    assert close(whole, stepped(data, tmp_path / "b", learning_rate=0.1, accumulate=3), 1e-5)
    start = stepped(data, tmp_path / "c", learning_rate=1e-9, head_learning_rate=1e-9)
    assert not close(whole, start, 1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_about_the_same(data, tmp_path, precision):
    start = stepped(data, tmp_path / "start", learning_rate=1e-12, head_learning_rate=1e-12)
    full = stepped(data, tmp_path / "full", learning_rate=0.1, precision="fp32")
    reduced = stepped(data, tmp_path / "reduced", learning_rate=0.1, precision=precision)
    for name, weight in full.items():
        assert reduced[name].dtype == torch.float32
        moved, off = (weight - start[name]).norm(), (reduced[name] - weight).norm()
        assert 0 < off < 0.05 * moved


def test_the_running_average_is_the_average(data, tmp_path, monkeypatch):
    seen, real = [], Stepper.step

    def watched(self, *arguments):
        loss = real(self, *arguments)
        seen.append(self.net.neck.weight.detach().clone())
        return loss

    monkeypatch.setattr(Stepper, "step", watched)
    got = stepped(data, tmp_path, learning_rate=0.1, ema=0.75)["neck.weight"]
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, seen[-1])


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint_and_the_way_out(
    data, tmp_path, monkeypatch
):
    run = run_in(tmp_path, checkpoint_steps=1)
    real = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, n, *rest: real(self, n, *rest) if n < 5 else float("nan"))
    with pytest.raises(UserError) as error:
        fit(data, run)
    kept = tmp_path / "models/m.last-good.pt"
    assert "the loss or the weights are no longer finite in step 6; lower learning_rate" in str(error.value)
    assert f"{kept} is the last good checkpoint" in str(error.value)
    assert json.loads(load_torch(kept)["position"])["step"] == 5
    # As the message says, a model may start from it.
    net = DescriptorNet("test_resnet", 8)
    load_backbone(net, "test_resnet", str(kept))
    name = next(iter(net.backbone.state_dict()))
    assert torch.equal(net.backbone.state_dict()[name], load_torch(kept)["net"][f"backbone.{name}"])


@pytest.mark.parametrize("batch_size", [6, 24])
def test_weights_that_are_not_finite_are_never_saved_even_by_the_last_step(data, tmp_path, batch_size):
    """The loss of a step does not see what the step makes of the weights."""
    run = run_in(tmp_path, checkpoint_steps=1)
    stages = [{"augmentation": "soft", "epochs": 1}]
    settings = changed(stages=stages, batch_size=batch_size, learning_rate=3e38, head_learning_rate=3e38)
    with pytest.raises(UserError, match="no longer finite in step 1; lower learning_rate"):
        fit(data, run, settings)
    assert not list(tmp_path.glob("models/**/*.pt"))


@pytest.mark.parametrize("loss", ["cosface", "adacos"])
def test_a_finished_model_is_read_back_and_a_foreign_one_is_named(tmp_path, loss):
    net, head = DescriptorNet("test_resnet", 8), CosineHead(8, 3, loss, 0.3, 30)
    head.scale.fill_(7.0)
    save_model(tmp_path / "m.pt", net, head, [1037, 1000, 7], MODEL, load_recipe("sample"), ALONE)
    other, other_head = DescriptorNet("test_resnet", 8), CosineHead(8, 3, loss, 0.3, 30)
    assert load_model(tmp_path / "m.pt", other, other_head) == [1037, 1000, 7]
    assert same(head.state_dict(), other_head.state_dict()) and same(net.state_dict(), other.state_dict())
    for wrong in (DescriptorNet("test_resnet", 16), None):
        with pytest.raises(UserError, match="m.pt: the weights do not fit"):
            load_model(tmp_path / "m.pt", wrong or other, None if wrong else CosineHead(8, 4, loss, 0.3, 30))


def test_a_sampled_model_is_fine_tuned_in_full_and_back(tmp_path):
    sampled = cosine_head(8, 5, "arcface", 0.3, 30, 0.5, ALONE)
    net, full = DescriptorNet("test_resnet", 8), CosineHead(8, 5, "arcface", 0.3, 30)
    save_model(tmp_path / "m.pt", net, sampled, [1, 2, 3, 4, 5], MODEL, load_recipe("sample"), ALONE)
    load_model(tmp_path / "m.pt", net, full)
    assert torch.equal(full.centres, sampled.centres)


def test_killed_for_real_at_many_moments_step_02_ends_with_the_same_bytes(project, tiny_data, run_step):
    """SIGKILL from outside, while torch writes, decodes or computes, until the step is through."""
    shutil.copytree(tiny_data, project / "input/tiny_data")
    run_step("01_clean", "--recipe", "tiny")
    command = [sys.executable, str(project / "src/02_train.py"), "--recipe", "tiny", "--set", "checkpoint_steps=1"]
    models = project / "input/tiny/models"
    subprocess.run(command, check=True, capture_output=True)
    wanted = {path.name: path.read_bytes() for path in models.iterdir()}
    assert sorted(wanted) == ["arcface.history.csv", "arcface.pt", "arcface.steps.csv"]
    shutil.rmtree(models)
    shutil.rmtree(project / "input/tiny/done")
    run_step("01_clean", "--recipe", "tiny")
    kills = 0
    for checkpoint in (1, 4):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folder = models / "arcface.checkpoints"
        while (
            not any(int(p.stem[5:]) >= checkpoint for p in folder.glob("*/step-*.pt")) and running.poll() is None
        ):
            time.sleep(0.002)
        if running.poll() is None:
            os.kill(running.pid, signal.SIGKILL)
            kills += 1
        running.wait()
    assert kills
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "going on after step" in shown
    assert {path.name: path.read_bytes() for path in models.iterdir()} == wanted
