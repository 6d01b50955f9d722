"""DELF: local features of a network, with an attention that picks them (Noh et al., ICCV 2017).

The trunk is a trained descriptor network up to its feature map of stride 16, and stays as it is. An attention of
two 1x1 convolutions learns, from the landmark labels alone, which cells of that map tell landmarks apart; then a
PCA shortens the features.
"""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import nn
from torchvision.ops import nms

from landmark.collectives import gather
from landmark.errors import UserError
from landmark.images import BadImage, fit, read_image, resize
from landmark.local_features import LocalFeatures
from landmark.losses import Head
from landmark.network import DescriptorNet, create_backbone, load_torch, to_input
from landmark.parallel import ordered_map
from landmark.progress import track
from landmark.ranks import ALONE, Ranks
from landmark.recipe import Recipe
from landmark.settings import LocalFeatureSettings
from landmark.store import atomic_path
from landmark.trainset import TrainSet

STRIDE = 16
# Seven scales, a factor sqrt 2 apart (section 3.3).
SCALES = [2.0 ** (step / 2) for step in range(-4, 3)]
# A cell sees most of what is within a square of this side, in pixels of its scale. Of two whose squares have an
# intersection over union above OVERLAP, the one of less attention is dropped: the same place in the next scale.
FIELD, OVERLAP = 4 * STRIDE, 0.45
# Cells of this many outer rings give no point: they see the padding, by which the borders of any two images match.
BORDER = 2
# The PCA is learned on at most this many features, the strongest few of each image.
PCA_FEATURES, PCA_FEATURES_PER_IMAGE = 200_000, 200
# On a CPU every thread passes images by itself; a GPU takes one pass at a time.
_ONE_PASS = threading.Lock()


class DelfNet(nn.Module):
    """Images (B, 3, H, W), normalised, -> the pooled features (B, C) by which the attention is trained.

    Raises UserError for a backbone without one feature map of stride 16. The PCA to `dim` dimensions is all zero
    until `fit_pca`.
    """

    normalisation = DescriptorNet.normalisation

    def __init__(self, backbone: str, dim: int):
        super().__init__()
        self.name = backbone
        info = create_backbone(backbone, features_only=True).feature_info
        if info.reduction().count(STRIDE) != 1:
            raise UserError(
                f"delf: {backbone} has feature maps of strides {info.reduction()}, not one of stride {STRIDE}"
            )
        index = info.reduction().index(STRIDE)
        channels = info.channels()[index]
        if dim > channels:
            raise UserError(f"delf.dim: {dim} is above {channels}, the channels that {backbone} has at that stage")
        self.backbone = create_backbone(backbone, features_only=True, out_indices=(index,))
        self.backbone.requires_grad_(False)
        self.attention = nn.Sequential(nn.Conv2d(channels, 512, 1), nn.ReLU(), nn.Conv2d(512, 1, 1), nn.Softplus())
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("components", torch.zeros(channels, dim))
        # A tenth faster on a CPU, and the same bytes before and after a checkpoint.
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "DelfNet":
        """As usual, but the trunk's batch norms and dropout stay in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def cells(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images -> unit-length features (B, C, h, w) and their attention (B, h, w), above zero."""
        with torch.no_grad():
            features = F.normalize(self.backbone(images)[0].float())
        # The attention sees features of unit size on average, so that one learning rate serves every backbone.
        return features, self.attention(features * features.shape[1] ** 0.5)[:, 0].float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features, attention = self.cells(images)
        # Eq. 1, but with weights that sum to one, so that the number of cells does not matter.
        weights = attention / attention.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        return torch.einsum("bchw,bhw->bc", features, weights)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit-length features (M, C) -> descriptors (M, dim) of unit length: PCA without whitening, then L2."""
        if not self.components.any():
            raise ValueError("the PCA is not fitted")
        return F.normalize((features - self.mean) @ self.components)


class SoftmaxHead(Head):
    """A linear classifier and the cross entropy; a Head (see losses.py) for pooled features (B, C).

    Each channel is first brought to mean 0 and variance 1 over the batch: the pooled features of all images are
    much alike, and gradient descent on them as they are is either slow or unstable, as the backbone may be. Of
    several processes each computes the loss of the whole batch.
    """

    def __init__(self, channels: int, classes: int, ranks: Ranks = ALONE):
        super().__init__()
        self.ranks = ranks
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.linear = nn.Linear(channels, classes)

    def forward(
        self,
        pooled: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
        counts: list[int] | None = None,
    ) -> torch.Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            everyone = gather(pooled.float(), counts, self.ranks)
            losses = F.cross_entropy(self.linear(self.norm(everyone)), labels, reduction="none")
            return (losses if weights is None else losses * weights).mean()


def load_trunk(net: DelfNet, path: Path) -> None:
    """Take the trunk's weights from a model that step 02 trained on the same backbone.

    Raises UserError naming the file when it is no such model, or of another backbone.
    """
    saved = load_torch(path).get("net")
    if not isinstance(saved, dict):
        raise UserError(f"{path}: not a model of step 02")
    take_trunk(net, saved, path)


def take_trunk(net: DelfNet, state: dict[str, torch.Tensor], source: object) -> None:
    """Take the trunk's weights from the state of a DescriptorNet, which `source` names. Raises UserError."""
    # timm's feature extractor writes some modules a.b of the whole network as a_b.
    given = {k.replace(".", "_"): v for k, v in state.items()}
    kept = net.backbone.state_dict()
    state = {k: given.get(f"backbone_{k.replace('.', '_')}") for k in kept}
    wrong = [k for k, v in state.items() if v is None or v.shape != kept[k].shape]
    if wrong:
        raise UserError(f"{source}: does not fit {net.name}; for example {wrong[0]} is not as expected")
    net.backbone.load_state_dict(state)


def _pyramid(image: np.ndarray) -> Iterator[np.ndarray]:
    """An RGB image (H, W, 3) uint8 in each scale at which cells are left within the border.

    Sides are rounded to 16k + 1: then each stride lands on pixels alike at both ends, whichever way the backbone
    pads, and the cells lie symmetric in the image.
    """
    for scale in SCALES:
        height, width = (round(side * scale / STRIDE) for side in image.shape[:2])
        if min(height, width) > 2 * BORDER:
            yield resize(image, STRIDE * width + 1, STRIDE * height + 1)


def _centres(cells: int, side: int, original: int) -> torch.Tensor:
    """Pixel coordinates in the original image of the receptive fields' centres, along one side.

    cells: of the feature map; side: pixels of the resized image. Cells are STRIDE apart and symmetric, so that of
    16k + 1 pixels and k + 1 cells the first and the last are centred on the first and the last pixel.
    """
    resized = torch.arange(cells) * STRIDE + (side - 1 - STRIDE * (cells - 1)) / 2
    return (resized + 0.5) * original / side - 0.5


@torch.no_grad()
def _strongest(
    net: DelfNet, image: np.ndarray, max_points: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (M, 2) of an RGB image and their features (M, C) before PCA, of decreasing attention."""
    height, width = image.shape[:2]
    on_cpu = device.type == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    points, halves, scores, features = [], [], [], []
    for resized in _pyramid(image):
        images = torch.from_numpy(resized).permute(2, 0, 1)[None]
        with nullcontext() if on_cpu else _ONE_PASS:
            cells, attention = (t[0].cpu() for t in net.cells(to_input(net, images.to(device))))
        high, wide = resized.shape[:2]
        y, x = _centres(attention.shape[0], high, height), _centres(attention.shape[1], wide, width)
        inner = slice(BORDER, -BORDER)
        cells, attention, y, x = cells[:, inner, inner], attention[inner, inner], y[inner], x[inner]
        points.append(torch.cartesian_prod(y, x).flip(1))
        halves.append(torch.tensor([width / wide, height / high]).expand(attention.numel(), 2) * FIELD / 2)
        scores.append(attention.flatten())
        features.append(cells.flatten(1).T)
    if not points:
        return torch.zeros(0, 2), torch.zeros(0, len(net.mean))
    points, halves, scores = torch.cat(points), torch.cat(halves), torch.cat(scores)
    kept = nms(torch.cat([points - halves, points + halves], dim=1), scores, OVERLAP)
    kept = kept[:max_points]
    return points[kept], torch.cat(features)[kept]


def delf(net: DelfNet, image: np.ndarray, settings: LocalFeatureSettings, device: torch.device) -> LocalFeatures:
    """DELF of an RGB image (H, W, 3) uint8 that is already shrunk to the longest side; net is on `device`.

    The settings' `max_points` of most attention, from a pyramid of seven scales. May be
    called from several threads.
    """
    points, features = _strongest(net, image, settings.max_points, device)
    descriptors = net.project(features.to(device)).cpu()
    points, descriptors = (side.numpy().astype(np.float32) for side in (points, descriptors))
    return LocalFeatures(points, descriptors, image.shape[1::-1])


def fit_pca(
    net: DelfNet, data: TrainSet, *, longest_side: int, seed: int, device: torch.device, workers: int
) -> None:
    """Learn the net's PCA, without whitening, on the strongest features of a random sample of images.

    Deterministic: scikit-learn fixes the components' signs. Raises UserError when there are too few features.
    """
    most = PCA_FEATURES // PCA_FEATURES_PER_IMAGE
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.labels))[:most])

    def strongest(row: int) -> np.ndarray:
        try:
            image = fit(read_image(data.path(row)), longest_side)
        except BadImage:
            # It could be read when training began.
            return np.zeros((0, len(net.mean)), np.float32)
        return _strongest(net, image, PCA_FEATURES_PER_IMAGE, device)[1].numpy()

    found = ordered_map(strongest, chosen, workers)
    features = np.concatenate(list(track(found, len(chosen), "features for the PCA", unit="images")))
    dim = net.components.shape[1]
    if len(features) <= dim:
        raise UserError(f"delf: the train images have {len(features)} local features; a PCA to {dim} needs more")
    pca = PCA(dim, svd_solver="covariance_eigh").fit(features.astype(np.float64))
    net.mean.copy_(torch.from_numpy(pca.mean_))
    net.components.copy_(torch.from_numpy(pca.components_.T))


def save_delf(path: Path, net: DelfNet, recipe: Recipe) -> None:
    """Write a finished DELF: backbone, weights of trunk, attention and PCA, and the recipe as JSON."""
    with atomic_path(path) as part:
        torch.save({"backbone": net.name, "delf": net.state_dict(), "recipe": recipe.model_dump_json()}, part)


def load_delf(path: Path) -> DelfNet:
    """Read a DELF that `save_delf` wrote, on the CPU and ready to extract. Raises UserError for another file."""
    saved = load_torch(path)
    try:
        net = DelfNet(saved["backbone"], saved["delf"]["components"].shape[1])
        net.load_state_dict(saved["delf"])
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: not a DELF checkpoint; step 02 writes one when the recipe has `delf`") from error
    return net.eval()
