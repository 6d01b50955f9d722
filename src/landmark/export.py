"""A finished model's descriptor as an ONNX file, for use outside the kit."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from landmark.errors import UserError
from landmark.network import DescriptorNet, describe
from landmark.store import atomic_path

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 1536 * 2**20  # bytes of weights; beyond, the exporter puts them into a second file
_TOLERANCE = 1e-4
# Batch, height and width, the sides as step 04 has them: multiples of 32. The graph is traced at the first.
_SHAPES = ((2, 192, 160), (1, 224, 160), (2, 160, 256), (3, 128, 128))


class _Describe(nn.Module):
    """`describe` as a module, which the exporter asks for."""

    def __init__(self, net: DescriptorNet):
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return describe(self.net, images)


def _same_convolution(self: Conv2dSame, x: torch.Tensor) -> torch.Tensor:
    """A convolution with TensorFlow's padding as the one operator that ONNX has for it: (B, C, H, W) -> the same.

    With timm's arithmetic of the padding, and height and width unknown, the exporter was not done after minutes.
    """
    sides = ((side + stride - 1) // stride for side, stride in zip(x.shape[2:], self.stride, strict=True))
    return torch.onnx.ops.symbolic(
        "Conv",
        [x, self.weight] if self.bias is None else [x, self.weight, self.bias],
        {
            "auto_pad": "SAME_UPPER",
            "strides": list(self.stride),
            "dilations": list(self.dilation),
            "group": self.groups,
        },
        dtype=x.dtype,
        shape=(x.shape[0], self.out_channels, *sides),
    )


def export_onnx(net: DescriptorNet, path: Path) -> float:
    """Write `describe` of the net as one ONNX file; return the largest difference of a number from torch's.

    Input `images`: uint8 RGB (batch, 3, height, width), normalised inside the graph; output `descriptors`: float32
    (batch, D) of unit length. Batch, height and width are free, also with transformers, and compared with torch
    where the sides are multiples of 32, as in step 04. The net is left on the CPU and in eval mode.
    Raises UserError, and leaves `path` as it was, when a package is missing, when the net cannot be exported, or
    when onnxruntime and torch differ by more than 1e-4.
    """
    if any(find_spec(package) is None for package in _PACKAGES):
        raise UserError(f"export: a package is missing; pip install {' '.join(_PACKAGES)}")
    size = sum(weights.nbytes for weights in net.state_dict().values())
    if size > _LARGEST:
        raise UserError(f"export: {net.name} has {size / 2**30:.1f} GiB of weights; one ONNX file holds 1.5 GiB")
    net.cpu().eval()
    with atomic_path(path) as part:
        try:
            _write(net, part)
            difference = _largest_difference(net, part)
        except Exception as error:  # what exporter and runtime raise is not documented
            raise UserError(
                f"export: {net.name} cannot be written as ONNX ({type(error).__name__}: {str(error)[:200]!r})"
            ) from error
        if not difference <= _TOLERANCE:  # nor may it be nan
            raise UserError(
                f"export: descriptors of {net.name} by onnxruntime differ from torch's by {difference:.2g}, more"
                f" than {_TOLERANCE:g}; {path} is not written"
            )
    return difference


def _write(net: DescriptorNet, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad(), patch.object(Conv2dSame, "forward", _same_convolution):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Describe(net).eval(),
            (_images(*_SHAPES[0]),),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=["descriptors"],
            dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
        )


def _largest_difference(net: DescriptorNet, path: Path) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure comes as an exception too
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = []
    for shape in _SHAPES:
        images = _images(*shape)
        (found,) = session.run(["descriptors"], {"images": images.numpy()})
        with torch.inference_mode():
            differences.append((torch.from_numpy(found) - describe(net, images)).abs().max())
    return torch.stack(differences).max().item()


def _images(batch: int, height: int, width: int) -> torch.Tensor:
    """Random images; of soft patches, since plain noise looks alike in every image and at every size."""
    patches = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(height))
    return F.interpolate(patches * 255, (height, width), mode="bilinear").to(torch.uint8)
