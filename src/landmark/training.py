"""Training a descriptor: batches of one aspect, cosine softmax, stages, and exact continuation after a kill."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from landmark import augment
from landmark.errors import UserError
from landmark.images import GROUP_SIZES, read_image, resize
from landmark.losses import CosineHead
from landmark.network import DescriptorNet, freeze_batch_norm, load_torch, to_input
from landmark.progress import track
from landmark.recipe import Optimisation, Recipe
from landmark.store import atomic_path


@dataclass(frozen=True)
class TrainSet:
    """paths of N images, labels (N,) int64 in 0..C-1, groups (N,) int64 aspect groups."""

    paths: list[Path]
    labels: np.ndarray
    groups: np.ndarray


def merge_small_groups(groups: np.ndarray, minimum: int) -> np.ndarray:
    """Let aspect groups of fewer than `minimum` images join the neighbouring group of next aspect.

    groups: (N,) int64. On a small set a group of three photographs would make a batch of three, whose batch
    statistics say nothing.
    """
    groups = groups.copy()
    while True:
        present, counts = np.unique(groups, return_counts=True)
        if len(present) == 1 or counts.min() >= minimum:
            return groups
        smallest = present[counts.argmin()]
        others = present[present != smallest]
        groups[groups == smallest] = others[np.abs(others - smallest).argmin()]


class AspectBatches(Sampler):
    """Batches of (epoch, image) from one aspect group each, in an order that depends on seed and epoch only.

    Every image comes once per epoch. A group is cut into batches of nearly equal size, at most `batch_size`,
    so that none is left with one image, from which batch norm cannot learn.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, seed: int):
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return sum(-(-n // self.batch_size) for n in np.unique(self.groups, return_counts=True)[1])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for group in np.unique(self.groups):
            members = rng.permutation(np.flatnonzero(self.groups == group))
            batches += np.array_split(members, -(-len(members) // self.batch_size))
        for batch in rng.permutation(len(batches)):
            yield [(self.epoch, int(i)) for i in batches[batch]]


class TrainImages(Dataset):
    """(epoch, image) -> the augmented image (3, H, W) uint8 of its group's size, and its label.

    The augmentation is seeded by (seed, epoch, image), so that it does not matter which worker draws it.
    """

    def __init__(self, data: TrainSet, sizes: str, level: str, seed: int):
        self.data, self.sizes, self.seed = data, GROUP_SIZES[sizes], seed
        self.transform = augment.build(level)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = key
        width, height = self.sizes[self.data.groups[index]]
        image = resize(read_image(self.data.paths[index]), width, height)
        self.transform.set_random_seed(int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0]))
        image = self.transform(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), int(self.data.labels[index])


def make_optimizer(net: nn.Module, head: nn.Module, settings: Optimisation, steps: int):
    """SGD with two rates (the backbone's; that of all else) and cosine annealing over `steps`."""
    rest = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    fresh = [*rest, *head.parameters()]
    optimizer = torch.optim.SGD(
        [
            {"params": list(net.backbone.parameters()), "lr": settings.learning_rate},
            {"params": fresh, "lr": settings.head_learning_rate},
        ],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=steps, eta_min=settings.final_learning_rate
    )
    return optimizer, annealing


def train(
    net: nn.Module,
    head: nn.Module,
    data: TrainSet,
    settings: Optimisation,
    *,
    frozen_batch_norm: bool,
    seed: int,
    device: torch.device,
    workers: int,
    checkpoint: Path,
    key: str,
    what: str,
) -> list[dict]:
    """Train net and head in place; return one row per epoch (epoch, augmentation, loss, learning_rate).

    net: a DescriptorNet or a DelfNet; head(net(images), labels) is the loss.
    After each epoch everything that the next one needs is written to `checkpoint`; if one with the same `key`
    (of settings and data) is there at the start, training goes on from it, to the same weights as without the
    break. Raises UserError when the loss is no longer finite.
    """
    net.to(device, memory_format=torch.channels_last)
    head.to(device)
    groups = merge_small_groups(data.groups, settings.batch_size // 2)
    data = replace(data, groups=groups)
    stage_of_epoch = [stage for stage in settings.stages for _ in range(stage.epochs)]
    batches = AspectBatches(groups, settings.batch_size, seed)
    optimizer, annealing = make_optimizer(net, head, settings, len(batches) * len(stage_of_epoch))
    parts = {"net": net, "head": head, "optimizer": optimizer, "annealing": annealing}
    history = _resume(checkpoint, key, parts, device)
    for epoch in range(len(history), len(stage_of_epoch)):
        stage = stage_of_epoch[epoch]
        batches.epoch = epoch
        # Layers that draw at random (dropout, stochastic depth) draw the same in a continued run.
        torch.manual_seed(seed * 1000 + epoch)
        net.train()
        if frozen_batch_norm:
            freeze_batch_norm(net)
        images = TrainImages(data, settings.sizes, stage.augmentation, seed)
        # On a CPU the network itself needs every core; a GPU is fed by loader processes.
        loaders = workers if device.type == "cuda" else 0
        loader = DataLoader(images, batch_sampler=batches, num_workers=loaders, pin_memory=loaders > 0)
        title = f"{what} epoch {epoch + 1}/{len(stage_of_epoch)} {stage.augmentation}"
        losses = []
        for x, labels in track(loader, len(batches), title, unit="steps"):
            loss = _step(net, head, x.to(device), labels.to(device), optimizer, annealing)
            if not np.isfinite(loss):
                raise UserError(
                    f"training {what}: the loss is no longer finite in epoch {epoch + 1}; lower"
                    " learning_rate or head_learning_rate"
                )
            losses.append(loss)
        history.append(
            {
                "epoch": epoch + 1,
                "augmentation": stage.augmentation,
                "loss": round(float(np.mean(losses)), 4),
                "learning_rate": annealing.get_last_lr()[0],
            }
        )
        print(f"{title}: loss {history[-1]['loss']}", flush=True)
        _save(checkpoint, key, parts, history)
    return history


def _step(net, head, images, labels, optimizer, annealing) -> float:
    use_half = images.device.type == "cuda"
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=use_half):
        loss = head(net(to_input(net, images)), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    annealing.step()
    return loss.item()


def _save(path: Path, key: str, parts: dict, history: list[dict]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    with atomic_path(path) as part:
        torch.save({**states, "key": key, "history": json.dumps(history)}, part)


def _resume(path: Path, key: str, parts: dict, device: torch.device) -> list[dict]:
    if not path.exists():
        return []
    saved = load_torch(path, device)
    if saved["key"] != key:
        return []
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    history = json.loads(saved["history"])
    print(f"going on after epoch {len(history)} ({path})", flush=True)
    return history


def save_model(path: Path, net: DescriptorNet, head: CosineHead, landmark_ids: list[int], recipe: Recipe) -> None:
    """Write a finished model: weights, class centres, the label of each centre, and the recipe as JSON."""
    with atomic_path(path) as part:
        torch.save(
            {
                "net": net.state_dict(),
                "head": head.state_dict(),
                "landmark_ids": torch.tensor(landmark_ids),
                "recipe": recipe.model_dump_json(),
            },
            part,
        )


def load_model(path: Path, net: DescriptorNet, head: CosineHead | None = None) -> list[int]:
    """Load a finished model into net (and head); return the landmark id of each class centre.

    Raises UserError when the file does not fit the recipe's network.
    """
    saved = load_torch(path)
    try:
        net.load_state_dict(saved["net"])
        if head is not None:
            head.load_state_dict(saved["head"])
    except RuntimeError as error:
        raise UserError(
            f"{path}: the weights do not fit the recipe's model: {str(error).splitlines()[0]}"
        ) from None
    return saved["landmark_ids"].tolist()
