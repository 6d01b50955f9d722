"""The ONNX file of a descriptor: what onnxruntime makes of it is what torch does."""

import sys

import numpy as np
import pytest
import torch
from timm.layers import Conv2dSame

from landmark import export
from landmark.errors import UserError
from landmark.export import export_onnx
from landmark.network import DescriptorNet, create_backbone, describe

needs_packages = pytest.mark.skipif(
    any(export.find_spec(package) is None for package in export._PACKAGES), reason="packages for ONNX are missing"
)


def lived_in(net: DescriptorNet) -> DescriptorNet:
    """The net with batch norm and GeM as after some training, where no part of them passes for the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.uniform_(0.5, 2, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
        if isinstance(getattr(net.pool, "p", None), torch.nn.Parameter):
            net.pool.p.fill_(2.3)
    return net


@pytest.fixture
def resnet() -> DescriptorNet:
    torch.manual_seed(0)
    return lived_in(DescriptorNet("test_resnet", 8, gem_learned=True))


@pytest.fixture
def vit() -> DescriptorNet:
    torch.manual_seed(0)
    return lived_in(DescriptorNet("test_vit", 8, pooling="token"))


@pytest.fixture
def padded_as_tensorflow() -> DescriptorNet:
    """With the convolutions of tf_efficientnet_lite0, which pad by height and width of the image."""
    torch.manual_seed(0)
    net = DescriptorNet("test_efficientnet", 8)
    net.backbone = create_backbone("test_efficientnet", num_classes=0, global_pool="", pad_type="same")
    assert sum(isinstance(module, Conv2dSame) for module in net.modules()) > 3
    return lived_in(net)


@needs_packages
@pytest.mark.parametrize("name", ["resnet", "vit", "padded_as_tensorflow"])
def test_the_file_describes_images_of_any_size_as_torch_does(name, request, tmp_path, capfd):
    import onnxruntime

    net, path = request.getfixturevalue(name), tmp_path / "net.onnx"
    assert 0 < export_onnx(net, path) < 1e-4
    assert capfd.readouterr() == ("", "")
    # Read from elsewhere: nothing beside the file is needed.
    assert list(tmp_path.iterdir()) == [path]
    session = onnxruntime.InferenceSession(
        path.rename(tmp_path / "moved.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [(i.name, i.type, i.shape[1]) for i in session.get_inputs()] == [("images", "tensor(uint8)", 3)]
    random = np.random.default_rng(0)
    for batch, height, width in ((1, 128, 320), (5, 288, 192), (3, 97, 131)):
        images = random.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
        (found,) = session.run(["descriptors"], {"images": images})
        with torch.inference_mode():
            expected = describe(net, torch.from_numpy(images)).numpy()
        assert found.dtype == np.float32 and found.shape == (batch, 8)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@needs_packages
def test_a_graph_that_differs_from_torch_is_refused(monkeypatch, tmp_path, resnet):
    monkeypatch.setattr(export._Describe, "forward", lambda self, images: describe(self.net, images.flip(1)))
    with pytest.raises(UserError, match="descriptors of test_resnet by onnxruntime differ from torch's by"):
        export_onnx(resnet, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@needs_packages
def test_a_net_that_cannot_be_exported_is_named(monkeypatch, tmp_path, resnet):
    # Which way it goes hangs on the pixels, and a graph has no way to choose.
    def forward(self, images):
        return describe(self.net, images if images.float().mean() > 9 else images + 1)

    monkeypatch.setattr(export._Describe, "forward", forward)
    with pytest.raises(UserError, match="test_resnet cannot be written as ONNX"):
        export_onnx(resnet, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@needs_packages
def test_weights_that_do_not_fit_one_file_are_an_error(monkeypatch, tmp_path, resnet):
    monkeypatch.setattr(export, "_LARGEST", 1000)
    with pytest.raises(UserError, match="test_resnet has .* GiB of weights"):
        export_onnx(resnet, tmp_path / "net.onnx")


@pytest.mark.parametrize("package", export._PACKAGES)
def test_a_missing_package_is_named(monkeypatch, tmp_path, resnet, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(resnet, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
