"""The descriptor network: pooling, frozen batch norm, and where weights come from."""

import numpy as np
import pytest
import timm
import torch

from landmark import network
from landmark.batch_norm import freeze_batch_norm
from landmark.errors import UserError
from landmark.network import DescriptorNet, GeM, describe, load_backbone


def test_gem_is_the_generalised_mean():
    features = np.random.default_rng(0).uniform(0, 4, (2, 3, 5, 4))
    expected = [[(sum(v**3 for v in plane.ravel()) / 20) ** (1 / 3) for plane in image] for image in features]
    np.testing.assert_allclose(GeM(3.0)(torch.tensor(features, dtype=torch.float32)), expected, rtol=1e-5)
    mean = GeM(1.0)(torch.tensor(features, dtype=torch.float32))
    np.testing.assert_allclose(mean, features.mean(axis=(2, 3)), rtol=1e-5)


def test_frozen_batch_norm_does_not_move_and_the_rest_does():
    torch.manual_seed(0)
    net = DescriptorNet("test_resnet", 8, 3.0).train()
    freeze_batch_norm(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    norms = {n for n, m in net.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert norms and not any(k.rpartition(".")[0] in norms for k in moved)
    assert "neck.0.weight" in moved and any(k.startswith("backbone") for k in moved)


def test_packaged_weights_are_those_of_imagenet():
    """A photograph of the Summer Palace is a palace to the whole classifier: the mapping by order is right."""
    from sklearn.datasets import load_sample_image

    from landmark.images import resize

    image = torch.from_numpy(resize(load_sample_image("china.jpg"), 224, 224)).permute(2, 0, 1)[None]
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    classifier.load_state_dict(network._packaged_state("tf_efficientnet_lite0"), strict=True)
    net = DescriptorNet("tf_efficientnet_lite0", 0, 3.0)
    load_backbone(net, "tf_efficientnet_lite0", "imagenet")
    with torch.inference_mode():
        x = network.to_input(net, image)
        top = classifier.eval()(x)[0].topk(5).indices.tolist()
        features = net.eval().backbone.forward_features(x)
        torch.testing.assert_close(features, classifier.forward_features(x))
    assert set(top) & {698, 663, 832}  # palace, monastery, stupa


def test_descriptors_have_unit_length():
    net = DescriptorNet("test_resnet", 8, 3.0).eval()
    with torch.inference_mode():
        vectors = describe(net, torch.randint(0, 255, (2, 3, 96, 64), dtype=torch.uint8))
    assert vectors.shape == (2, 8)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_missing_weights_off_line_are_an_error_without_a_try_of_the_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(network, "urlopen", lambda *_, **__: pytest.fail("tried the network"))
    net = DescriptorNet("resnet18", 0, 3.0)
    with pytest.raises(UserError, match="resnet18 .*off-line.*weights=none.*tf_efficientnet_lite0"):
        load_backbone(net, "resnet18", "imagenet")


def test_an_unreachable_hub_is_an_error_and_not_a_minute_of_retries(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(network, "urlopen", refuse)
    with pytest.raises(UserError, match="resnet18"):
        load_backbone(DescriptorNet("resnet18", 0, 3.0), "resnet18", "imagenet")


def test_weights_from_a_file_fit_or_are_named(tmp_path):
    source = DescriptorNet("test_resnet", 0, 3.0)
    torch.save(source.backbone.state_dict(), tmp_path / "weights.pt")
    net = DescriptorNet("test_resnet", 0, 3.0)
    load_backbone(net, "test_resnet", str(tmp_path / "weights.pt"))
    for a, b in zip(net.backbone.state_dict().values(), source.backbone.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="do not fit resnet18"):
        load_backbone(DescriptorNet("resnet18", 0, 3.0), "resnet18", str(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match="absent.pt is not there"):
        load_backbone(net, "test_resnet", str(tmp_path / "absent.pt"))


@pytest.mark.parametrize("content", [b"no weights", b""])
def test_a_foreign_file_of_weights_is_named(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match="w.pt: not a file of torch weights, or damaged"):
        load_backbone(DescriptorNet("test_resnet", 0, 3.0), "test_resnet", str(tmp_path / "w.pt"))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": pytest.raises}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt: not a file of torch weights, or damaged"):
        load_backbone(DescriptorNet("test_resnet", 0, 3.0), "test_resnet", str(tmp_path / "w.pt"))


def test_a_learned_p_learns_and_begins_as_the_fixed_one():
    torch.manual_seed(0)
    features = torch.rand(2, 3, 5, 4)
    learned = GeM(3.0, learned=True)
    torch.testing.assert_close(learned(features), GeM(3.0)(features))
    learned(features).sum().backward()
    assert learned.p.grad.abs() > 0 and not list(GeM(3.0).parameters())


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet", "swin_tiny_patch4_window7_224"])
def test_any_backbone_takes_any_size_and_pools_its_map_or_patches(backbone):
    torch.manual_seed(0)
    net = DescriptorNet(backbone, 0, gem_p=1.0).eval()
    images = torch.randn(1, 3, 160, 96)
    with torch.inference_mode():
        got = net(images)
        features = net.backbone.forward_features(images)
    if features.ndim == 3:
        features = features[:, net.backbone.num_prefix_tokens :].transpose(1, 2)[..., None]
    elif features.shape[1] != net.backbone.num_features:
        features = features.permute(0, 3, 1, 2)
    assert got.shape == (1, net.backbone.num_features)
    torch.testing.assert_close(got, features.clamp(min=1e-6).mean(dim=(2, 3)))


def test_a_transformers_class_token_may_be_the_descriptor():
    torch.manual_seed(0)
    net = DescriptorNet("test_vit", 0, pooling="token").eval()
    images = torch.randn(2, 3, 128, 96)
    with torch.inference_mode():
        torch.testing.assert_close(net(images), net.backbone.forward_features(images)[:, 0])
    with pytest.raises(UserError, match="test_resnet has no class token; use gem"):
        DescriptorNet("test_resnet", 0, pooling="token")


def test_an_unknown_backbone_is_named():
    with pytest.raises(UserError, match="no model 'efficentnet'"):
        DescriptorNet("efficentnet", 0, 3.0)


def test_carried_weights_stand_in_for_the_hub(tmp_path, monkeypatch):
    net, other = DescriptorNet("test_resnet", 0), DescriptorNet("test_resnet", 0)
    monkeypatch.setattr(network, "CARRIED", tmp_path)
    torch.save(other.backbone.state_dict(), tmp_path / "test_resnet.pt")
    load_backbone(net, "test_resnet", "imagenet")
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[name])
