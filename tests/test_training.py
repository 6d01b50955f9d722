"""Batches, the schedule, and training that goes on after a kill."""

import cv2
import numpy as np
import pytest
import torch

from landmark import training
from landmark.errors import UserError
from landmark.images import GROUP_SIZES
from landmark.losses import CosineHead
from landmark.network import DescriptorNet
from landmark.recipe import Finetune, Training
from landmark.training import AspectBatches, TrainImages, TrainSet, merge_small_groups

SETTINGS = Training(
    stages=[{"augmentation": "soft", "epochs": 1}, {"augmentation": "hard", "epochs": 2}],
    sizes="XS",
    batch_size=4,
    dim=8,
)


def test_a_batch_has_one_aspect_and_an_epoch_every_image_once():
    groups = np.random.default_rng(0).integers(0, 5, 203)
    batches = AspectBatches(groups, 16, seed=1)
    seen = list(batches)
    assert len(seen) == len(batches)
    assert all(len({groups[i] for _, i in batch}) == 1 and len(batch) <= 16 for batch in seen)
    assert sorted(i for batch in seen for _, i in batch) == list(range(203))


def test_no_batch_is_left_with_a_single_image():
    batches = AspectBatches(np.zeros(33, int), 16, seed=1)
    assert sorted(len(batch) for batch in batches) == [11, 11, 11]


def test_the_order_depends_on_seed_and_epoch_alone():
    groups = np.random.default_rng(0).integers(0, 3, 50)

    def order(seed, epoch):
        batches = AspectBatches(groups, 8, seed)
        batches.epoch = epoch
        return [[i for _, i in batch] for batch in batches]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_small_groups_join_the_neighbour_of_next_aspect():
    groups = np.array([0] * 2 + [1] * 9 + [3] * 3 + [4] * 8)
    merged = merge_small_groups(groups, 4)
    assert merged.tolist() == [1] * 11 + [4] * 11
    assert merge_small_groups(np.array([2, 2]), 4).tolist() == [2, 2]


def test_the_schedule_is_a_cosine_per_step_and_ends_where_it_should():
    net, head = DescriptorNet("test_resnet", 8, 3.0), CosineHead(8, 3, "arcface", 0.3, 30)
    settings = Training(learning_rate=0.1, head_learning_rate=1.0)
    optimizer, annealing = training.make_optimizer(net, head, settings, steps=10)
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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three landmarks of four photographs: a colour and stripes each, wide and tall."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    paths, labels, groups = [], [], []
    for label in range(3):
        for view in range(4):
            shape = (48, 80) if view % 2 else (80, 48)
            image = rng.integers(0, 60, (*shape, 3))
            image[:, :: 3 + label, label] += 150
            paths.append(folder / f"{label}{view}.png")
            cv2.imwrite(str(paths[-1]), image.astype(np.uint8))
            labels.append(label)
            groups.append(0 if view % 2 else 4)
    return TrainSet(paths, np.array(labels), np.array(groups))


def fit(data, checkpoint, settings=SETTINGS, seed=5, **options):
    torch.manual_seed(seed)
    net, head = DescriptorNet("test_resnet", 8, 3.0), CosineHead(8, 3, "arcface", 0.3, 30)
    defaults = {
        "frozen_batch_norm": False,
        "device": torch.device("cpu"),
        "workers": 1,
        "key": "k",
        "what": "test",
    }
    history = training.train(net, head, data, settings, seed=seed, checkpoint=checkpoint, **(defaults | options))
    return {**net.state_dict(), **head.state_dict()}, history


def test_images_are_resized_to_their_groups_size_and_augmented_by_seed_epoch_and_image(data):
    images = TrainImages(data, "XS", "hard", seed=3)
    for index in (0, 1):
        image, label = images[0, index]
        width, height = GROUP_SIZES["XS"][data.groups[index]]
        assert image.shape == (3, height, width) and image.dtype == torch.uint8 and label == data.labels[index]
    first = images[0, 0][0]
    assert not torch.equal(first, images[1, 0][0])
    assert torch.equal(first, TrainImages(data, "XS", "hard", seed=3)[0, 0][0])


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("undisturbed") / "a.pt")


@pytest.mark.parametrize("step_of_death", [1, 4, 5, 12])
def test_killed_at_any_step_training_ends_with_the_same_weights(
    data, undisturbed, tmp_path, monkeypatch, step_of_death
):
    weights, history = undisturbed
    steps, real = [], training._step

    def dying(*arguments):
        steps.append(1)
        if len(steps) == step_of_death:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path / "b.pt")
    monkeypatch.setattr(training, "_step", real)
    continued, again = fit(data, tmp_path / "b.pt")
    assert again == history and [row["augmentation"] for row in history] == ["soft", "hard", "hard"]
    assert all(torch.equal(continued[k], weights[k]) for k in weights)


def test_a_checkpoint_of_other_settings_is_not_continued(data, tmp_path):
    fit(data, tmp_path / "a.pt", key="old")
    other, _ = fit(data, tmp_path / "a.pt", key="new", seed=6)
    fresh, _ = fit(data, tmp_path / "b.pt", key="new", seed=6)
    assert all(torch.equal(other[k], fresh[k]) for k in fresh)


def test_training_brings_the_loss_down(data, tmp_path):
    stages = [{"augmentation": "soft", "epochs": 4}]
    settings = Training(stages=stages, sizes="XS", batch_size=6, dim=8, head_learning_rate=3e-3)
    _, history = fit(data, tmp_path / "a.pt", settings)
    assert history[0]["loss"] > 5 and history[-1]["loss"] < 1
    assert history[-1]["learning_rate"] == pytest.approx(3e-6)


def test_fine_tuning_leaves_every_batch_norm_where_it_was(data, tmp_path):
    torch.manual_seed(5)
    before = DescriptorNet("test_resnet", 8, 3.0).state_dict()
    settings = Finetune(sizes="XS", batch_size=4, head_learning_rate=0.1, learning_rate=0.1)
    after, _ = fit(data, tmp_path / "a.pt", settings, frozen_batch_norm=True)
    norms = [k for k in before if k.endswith("running_mean")]
    assert norms and all(torch.equal(before[k], after[k]) for k in norms)
    affine = [k.replace("running_mean", "weight") for k in norms]
    assert all(torch.equal(before[k], after[k]) for k in affine)
    assert not torch.equal(before["neck.0.weight"], after["neck.0.weight"])


def test_a_loss_that_is_not_finite_stops_with_the_way_out(data, tmp_path):
    with pytest.raises(UserError, match="no longer finite in epoch 1; lower learning_rate"):
        fit(
            data,
            tmp_path / "a.pt",
            SETTINGS.model_copy(update={"learning_rate": 1e30, "head_learning_rate": 1e30}),
        )


def test_a_finished_model_is_read_back_and_a_foreign_one_is_named(tmp_path):
    from landmark.recipe import load_recipe

    net, head = DescriptorNet("test_resnet", 8, 3.0), CosineHead(8, 2, "cosface", 0.3, 30)
    training.save_model(tmp_path / "m.pt", net, head, [1037, 1000], load_recipe("sample"))
    other, other_head = DescriptorNet("test_resnet", 8, 3.0), CosineHead(8, 2, "cosface", 0.3, 30)
    assert training.load_model(tmp_path / "m.pt", other, other_head) == [1037, 1000]
    assert torch.equal(head.centres, other_head.centres)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(UserError, match="m.pt: the weights do not fit"):
        training.load_model(tmp_path / "m.pt", DescriptorNet("test_resnet", 16, 3.0))
