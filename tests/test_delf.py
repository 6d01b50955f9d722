"""DELF: the attention learns on a frozen trunk; points lie where the image has them; files and step 02."""

import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import run_in
from torch import nn

from landmark import delf as module
from landmark import training
from landmark.delf import DelfNet, SoftmaxHead, delf, fit_pca, load_delf, load_trunk, save_delf
from landmark.errors import UserError
from landmark.network import DescriptorNet, to_input
from landmark.recipe import load_recipe
from landmark.settings import LocalFeatureSettings, Optimisation
from landmark.stepper import Stepper
from landmark.trainset import TrainSet
from landmark.verification import verify

CPU = torch.device("cpu")
SETTINGS = LocalFeatureSettings(max_points=300)
TRAINING = Optimisation(
    stages=[{"augmentation": "hard", "epochs": 2}], sizes="XS", batch_size=4, head_learning_rate=0.03
)


def new_net(seed: int = 0) -> DelfNet:
    torch.manual_seed(seed)
    return DelfNet("test_resnet", 40).eval()


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs of several sizes, so that there is something to see at every scale."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for size in (4, 8, 16, 32):
        coarse = rng.uniform(0, 255, (-(-height // size), -(-width // size), 3))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 4
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), texture(120, 160, i))
    return paths


@pytest.fixture(scope="module")
def fitted(photographs) -> DelfNet:
    net = new_net()
    fit_pca(net, unlabelled(photographs), longest_side=160, seed=1, device=CPU, workers=2)
    return net


class Cells(nn.Module):
    """A trunk that gives a fixed map, whatever it is shown."""

    def __init__(self, maps: torch.Tensor):
        super().__init__()
        self.maps = maps

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.maps]


def test_pooled_features_are_the_mean_of_unit_features_weighted_by_attention():
    net = new_net()
    # Two cells, (3, 4) and (0, 2), of unit length (0.6, 0.8) and (0, 1); attention 1 and 3.
    net.backbone = Cells(torch.tensor([[3.0, 0.0], [4.0, 2.0]]).view(1, 2, 1, 2))
    net.attention = Cells(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))
    net.attention.forward = lambda maps: net.attention.maps
    torch.testing.assert_close(net(torch.zeros(1, 3, 16, 32)), torch.tensor([[0.6 / 4, 0.8 / 4 + 3 / 4]]))


def test_attention_is_softplus_and_so_above_zero_and_features_are_of_unit_length():
    net = new_net()
    images = torch.randn(2, 3, 65, 97)
    features, attention = net.cells(images)
    assert attention.shape == (2, 5, 7) and features.shape == (2, 192, 5, 7)
    torch.testing.assert_close(attention, F.softplus(net.attention[:3](features * 192**0.5))[:, 0])
    assert (attention > 0).all()
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 5, 7))


def test_the_classifier_is_a_softmax_over_linear_scores_of_standardised_channels():
    head = SoftmaxHead(2, 2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0], [0, 1]]))
        head.linear.bias.zero_()
    # The channels (1, 3) and (7, 5) become (-1, 1) and (1, -1).
    loss = head(torch.tensor([[1.0, 7.0], [3.0, 5.0]]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx((np.log(1 + np.exp(2)) + np.log(1 + np.exp(-2))) / 2, rel=1e-4)


@pytest.fixture(scope="module")
def data(photographs) -> TrainSet:
    return TrainSet.of(photographs, np.full((6, 2), (70, 100)), np.arange(6) % 2)


def unlabelled(paths) -> TrainSet:
    return TrainSet.of(paths, np.ones((len(paths), 2)), np.zeros(len(paths), np.int64))


def fit_attention(data, folder):
    torch.manual_seed(3)
    net, head = DelfNet("test_resnet", 40), SoftmaxHead(192, 2)
    training.train(net, head, data, TRAINING, run_in(folder))
    return {**net.state_dict(), **head.state_dict()}


def test_training_moves_the_attention_and_leaves_the_trunk_and_its_statistics(data, tmp_path):
    torch.manual_seed(3)
    before = DelfNet("test_resnet", 40).state_dict()
    after = fit_attention(data, tmp_path)
    trunk = [k for k in before if k.startswith("backbone.")]
    assert any(k.endswith("running_mean") for k in trunk)
    assert all(torch.equal(before[k], after[k]) for k in trunk)
    attention = [k for k in before if k.startswith("attention.")]
    assert attention and not any(torch.equal(before[k], after[k]) for k in attention)


def test_killed_in_the_second_epoch_training_ends_with_the_same_attention(data, tmp_path, monkeypatch):
    weights = fit_attention(data, tmp_path / "a")
    real = Stepper.step

    def dying(self, number, *arguments):
        if number == 3:
            raise KeyboardInterrupt
        return real(self, number, *arguments)

    monkeypatch.setattr(Stepper, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_attention(data, tmp_path / "b")
    monkeypatch.setattr(Stepper, "step", real)
    continued = fit_attention(data, tmp_path / "b")
    assert all(torch.equal(continued[k], weights[k]) for k in weights)


def test_attention_learns_to_look_at_what_tells_the_labels_apart(tmp_path):
    """Two labels differ in a patch at a random place; all else is one clutter that says nothing."""
    rng, paths, places = np.random.default_rng(0), [], []
    for i in range(16):
        image, patch = texture(192, 192, 100 + i) // 3, np.zeros((64, 64, 3), np.uint8)
        if i % 2:
            patch[::8], patch[1::8], patch[2::8], patch[3::8] = 255, 255, 255, 255
        else:
            patch[:, ::8], patch[:, 1::8], patch[:, 2::8], patch[:, 3::8] = 255, 255, 255, 255
        y, x = rng.integers(0, 128, 2)
        image[y : y + 64, x : x + 64] = patch
        places.append((x, y))
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), image)
    torch.manual_seed(0)
    net, head = DelfNet("test_resnet", 40), SoftmaxHead(192, 2)
    settings = TRAINING.model_copy(update={"batch_size": 8, "head_learning_rate": 0.01})
    settings = settings.model_copy(update={"stages": [settings.stages[0].model_copy(update={"epochs": 8})]})
    data = TrainSet.of(paths, np.full((16, 2), 192), np.arange(16) % 2)
    training.train(net, head, data, settings, run_in(tmp_path, seed=1))
    history = pd.read_csv(tmp_path / "models/m.history.csv").to_dict("records")
    assert history[-1]["loss"] < history[0]["loss"]
    ratios = []
    for path, (x, y) in zip(paths, places, strict=True):
        images = torch.from_numpy(cv2.resize(cv2.imread(str(path)), (193, 193))).permute(2, 0, 1)[None]
        attention = net.cells(to_input(net, images))[1][0].detach()
        rows, columns = (torch.arange(13) * 16,) * 2
        inside = ((rows >= y) & (rows <= y + 64))[:, None] & ((columns >= x) & (columns <= x + 64))
        ratios.append(attention[inside].mean() / attention[~inside].mean())
    assert min(ratios) > 1


def test_the_pca_is_that_of_the_strongest_features(fitted, photographs):
    features = [
        module._strongest(fitted, cv2.imread(str(p))[..., ::-1].copy(), module.PCA_FEATURES_PER_IMAGE, CPU)[1]
        for p in photographs
    ]
    features = torch.cat(features).numpy().astype(np.float64)
    mean = features.mean(axis=0)
    np.testing.assert_allclose(fitted.mean, mean, atol=1e-6)
    _, vectors = np.linalg.eigh(np.cov(features.T))
    components = fitted.components.numpy()
    # The same axes, whatever their sign, which scikit-learn fixes: the largest entry of each is above zero.
    np.testing.assert_allclose(np.abs((components * vectors[:, :-41:-1]).sum(axis=0)), 1, atol=1e-4)
    assert all(column[np.abs(column).argmax()] > 0 for column in components.T)


def test_descriptors_have_40_dimensions_and_unit_length(fitted):
    found = delf(fitted, texture(120, 160), SETTINGS, CPU)
    assert found.descriptors.shape == (len(found.points), 40) and found.descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, rtol=1e-5)
    raw = module._strongest(fitted, texture(120, 160), 300, CPU)[1]
    shortened = F.normalize((raw - fitted.mean) @ fitted.components)
    torch.testing.assert_close(torch.from_numpy(found.descriptors), shortened)


def test_the_pca_depends_on_the_seed_alone_and_takes_a_bounded_sample(photographs, monkeypatch):
    monkeypatch.setattr(module, "PCA_FEATURES", 2 * module.PCA_FEATURES_PER_IMAGE)

    def components(seed):
        net = new_net()
        fit_pca(net, unlabelled(photographs), longest_side=160, seed=seed, device=CPU, workers=2)
        return net.components

    assert torch.equal(components(1), components(1)) and not torch.equal(components(1), components(2))


def test_too_few_features_for_the_pca_are_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), texture(20, 20))
    with pytest.raises(UserError, match="local features; a PCA to 40 needs more"):
        fit_pca(
            new_net(),
            unlabelled([tmp_path / "a.png", tmp_path / "missing.png"]),
            longest_side=160,
            seed=1,
            device=CPU,
            workers=2,
        )


@pytest.mark.parametrize("backbone", ["test_resnet", "tf_efficientnet_lite0"])
def test_a_cell_is_centred_where_the_image_changes_it(backbone):
    """The two pad differently: torch's convolutions alike on both sides, TensorFlow's one more at the end."""
    torch.manual_seed(0)
    net = DelfNet(backbone, 40).eval()
    plain = np.full((161, 241, 3), 127, np.uint8)
    for x, y in ((80, 80), (128, 64), (160, 96)):
        dotted = plain.copy()
        dotted[y - 2 : y + 3, x - 2 : x + 3] = 255
        one, other = (
            net.backbone(to_input(net, torch.from_numpy(i).permute(2, 0, 1)[None]))[0] for i in (plain, dotted)
        )
        change = (one - other)[0].norm(dim=0).detach()
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert module._centres(change.shape[0], 161, 161)[row] == y
        assert module._centres(change.shape[1], 241, 241)[column] == x


def test_centres_go_back_to_the_pixels_of_the_image():
    # 33 resized pixels have cells on the pixels 0, 16 and 32; pixel p of an image twice as large is at 2p + 0.5.
    np.testing.assert_allclose(module._centres(3, 33, 33), [0, 16, 32])
    np.testing.assert_allclose(module._centres(3, 33, 66), [0.5, 32.5, 64.5])
    # A backbone that cuts the image into patches has one cell less, between them.
    np.testing.assert_allclose(module._centres(2, 33, 33), [8, 24])


class Unlike(nn.Module):
    """Attention by how much a cell differs from the usual cell of its map."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        usual = maps.flatten(2).median(dim=2).values[:, :, None, None]
        return (maps - usual).norm(dim=1, keepdim=True)


@pytest.mark.parametrize(("x", "y"), [(60, 40), (150, 90)])
def test_points_lie_on_the_only_textured_patch(fitted, x, y):
    net = new_net()
    net.load_state_dict(fitted.state_dict())
    net.attention = Unlike()
    image = np.full((200, 280, 3), 127, np.uint8)
    image[y : y + 64, x : x + 64] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    points = delf(net, image, LocalFeatureSettings(max_points=20), CPU).points
    assert len(points) == 20
    # On it, or where a cell of half the scale still sees its edge; and on the whole about its middle.
    assert ((points > [x - 32, y - 32]) & (points < [x + 96, y + 96])).all()
    np.testing.assert_allclose(points.mean(axis=0), [x + 31.5, y + 31.5], atol=8)


def test_an_image_and_its_double_match_at_scale_two(fitted):
    image = texture(160, 224)
    double = cv2.resize(image, (448, 320), interpolation=cv2.INTER_CUBIC)
    settings = LocalFeatureSettings(max_points=1000)
    one, two = (delf(fitted, i, settings, CPU) for i in (image, double))
    recipe = load_recipe("sample")
    found = verify(one, two, recipe.verification.model_copy(update={"model": "affine", "threshold": 10.0}))
    assert found.inliers > 50
    np.testing.assert_allclose(found.transform[:2, :2], np.eye(2) * 2, atol=0.05)
    np.testing.assert_allclose(found.transform[:2, 2], 0.5, atol=6)


def test_no_two_points_are_the_same_place_and_the_strongest_come_first(fitted):
    image = texture(160, 224)
    every = delf(fitted, image, LocalFeatureSettings(max_points=10_000), CPU)
    few = delf(fitted, image, LocalFeatureSettings(max_points=50), CPU)
    assert len(few.points) == 50
    assert np.array_equal(few.points, every.points[:50])
    assert np.array_equal(few.descriptors, every.descriptors[:50])
    cells = sum((h // 16 - 3) * (w // 16 - 3) for h, w, _ in (r.shape for r in module._pyramid(image)))
    assert 50 < len(every.points) < cells


def test_no_point_lies_in_the_two_outer_rings_of_cells(fitted, monkeypatch):
    monkeypatch.setattr(module, "SCALES", [1.0])
    points = delf(fitted, texture(160, 224), LocalFeatureSettings(max_points=10_000), CPU).points
    assert points.min() > 30 and points[:, 0].max() < 224 - 31 and points[:, 1].max() < 160 - 31


def test_overlapping_squares_leave_only_the_one_of_most_attention(fitted, monkeypatch):
    monkeypatch.setattr(module, "OVERLAP", 0.0)
    monkeypatch.setattr(module, "SCALES", [1.0])
    points = delf(fitted, texture(256, 256), SETTINGS, CPU).points
    apart = np.abs(points[:, None] - points[None]).max(axis=2)
    assert len(points) > 3 and apart[~np.eye(len(points), dtype=bool)].min() >= module.FIELD * 256 / 257 - 1e-3


def test_an_image_too_small_for_any_scale_has_no_points(fitted):
    tiny = delf(fitted, np.zeros((1, 1, 3), np.uint8), SETTINGS, CPU)
    assert tiny.points.shape == (0, 2) and tiny.descriptors.shape == (0, 40)
    # 80 pixels are 5 strides at scale 1, enough for a cell within the border, and too few below.
    assert len(list(module._pyramid(np.zeros((80, 80, 3), np.uint8)))) == 3


def test_a_checkpoint_read_back_gives_the_same_features(fitted, tmp_path):
    save_delf(tmp_path / "delf.pt", fitted, load_recipe("sample"))
    one, two = (delf(n, texture(120, 160), SETTINGS, CPU) for n in (fitted, load_delf(tmp_path / "delf.pt")))
    assert np.array_equal(one.points, two.points) and np.array_equal(one.descriptors, two.descriptors)


def test_a_foreign_file_is_named(tmp_path):
    torch.save({"net": {}, "head": {}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="model.pt: not a DELF checkpoint; step 02 writes one"):
        load_delf(tmp_path / "model.pt")
    torch.save({"backbone": "test_resnet", "delf": {"components": torch.zeros(192, 40)}}, tmp_path / "half.pt")
    with pytest.raises(UserError, match="half.pt: not a DELF checkpoint"):
        load_delf(tmp_path / "half.pt")


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_the_trunk_takes_the_weights_of_a_trained_model(tmp_path, backbone):
    """timm's extractor names some layers otherwise than the whole network (ConvNeXt's do)."""
    torch.manual_seed(1)
    trained = DescriptorNet(backbone, 8, 3.0).eval()
    torch.save({"net": trained.state_dict(), "head": {}}, tmp_path / "m.pt")
    net = DelfNet(backbone, 8).eval()
    load_trunk(net, tmp_path / "m.pt")
    images = torch.randn(1, 3, 64, 96)
    expected = {tuple(m.shape): m for m in trained.backbone.forward_intermediates(images, intermediates_only=True)}
    maps = net.backbone(images)[0]
    torch.testing.assert_close(maps, expected[tuple(maps.shape)])


def test_a_model_that_does_not_fit_the_trunk_is_named(tmp_path):
    torch.save({"net": DescriptorNet("test_efficientnet", 8, 3.0).state_dict()}, tmp_path / "m.pt")
    with pytest.raises(UserError, match="m.pt: does not fit test_resnet; for example "):
        load_trunk(new_net(), tmp_path / "m.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: not a model of step 02"):
        load_trunk(new_net(), tmp_path / "other.pt")


def test_backbones_without_a_map_of_stride_16_and_too_many_dimensions_are_errors():
    with pytest.raises(UserError, match="test_vit has feature maps of strides .*, not one of stride 16"):
        DelfNet("test_vit", 40)
    with pytest.raises(UserError, match="delf.dim: 200 is above 192"):
        DelfNet("test_resnet", 200)


def test_delf_is_of_one_of_the_models():
    with pytest.raises(UserError, match="delf.of: 'cosface' is none of the models"):
        load_recipe("sample", ["delf.of=cosface"])


def test_step_02_trains_delf_once(project, run_step, tiny_data):
    shutil.copytree(tiny_data, project / "input/tiny_data")
    stages = "{stages: [{augmentation: hard, epochs: 1}], sizes: XS, batch_size: 8}"
    options = ["--recipe", "tiny", "--set", "delf={of: arcface, training: " + stages + "}"]
    clean = pd.read_csv(tiny_data / "train.csv").groupby("landmark_id")["id"].agg(" ".join)
    (project / "input/tiny").mkdir(parents=True)
    clean.rename("images").to_csv(project / "input/tiny/train_clean.csv")
    first, _ = run_step("02_train", *options)
    used = re.findall(r"02 train: (\w+) on (\d+ images, 4 labels), 0 left out", first)
    # Two images are held out to judge the descriptor; DELF learns from all.
    assert used == [("arcface", "30 images, 4 labels"), ("delf", "32 images, 4 labels")]
    models = project / "input/tiny/models"
    assert pd.read_csv(models / "delf.history.csv")["augmentation"].tolist() == ["hard"]
    assert not list(models.glob("*checkpoint*"))
    trunk = torch.load(models / "arcface.pt", weights_only=True)["net"]
    net = load_delf(models / "delf.pt")
    assert all(torch.equal(v, trunk[f"backbone.{k}"]) for k, v in net.backbone.state_dict().items())
    assert len(delf(net, texture(160, 160), SETTINGS, CPU).points)
    second, _ = run_step("02_train", *options)
    assert second.count("is up to date") == 2
    # A change of the model that DELF is built on makes DELF anew; a change of DELF leaves the model alone.
    third, _ = run_step("02_train", *options, "--set", "delf.dim=24")
    assert "arcface is up to date" in third and "02 train: delf on" in third
