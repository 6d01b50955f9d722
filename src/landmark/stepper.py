"""One step of training: its optimizer and schedule, precision, parts, and the processes that share it."""

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from landmark.batch_norm import freeze_batch_norm, synchronise_batch_norm
from landmark.batches import Batch, Loader
from landmark.collectives import add_up
from landmark.devices import pick_precision
from landmark.errors import UserError
from landmark.network import to_input
from landmark.progress import track
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Optimisation
from landmark.trainset import TrainSet


@dataclass(frozen=True)
class Run:
    """Of what a training is a part: its recipe, title, and the model file that it is for.

    key: of settings and data (see Job.key). seed: of everything that is drawn.
    """

    recipe: Recipe
    title: str
    target: Path
    key: str
    seed: int
    device: torch.device
    ranks: Ranks

    @property
    def tensorboard(self) -> Path:
        return self.recipe.work / "tensorboard" / self.target.stem


def make_optimizer(net: nn.Module, head: nn.Module, settings: Optimisation, steps: int):
    """The optimizer with two rates (the backbone's; that of all else), and cosine annealing over `steps`."""
    rest = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": list(net.backbone.parameters()), "lr": settings.learning_rate},
        {"params": [*rest, *head.parameters()], "lr": settings.head_learning_rate},
    ]
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=steps, eta_min=settings.final_learning_rate
    )
    return optimizer, annealing


def class_weights(labels: np.ndarray, exponent: float) -> torch.Tensor:
    """What an image of each label counts, (C,) float32: its number of images ** -exponent; 1 on average."""
    counts = np.bincount(labels)
    weights = np.maximum(counts, 1) ** -exponent
    return torch.tensor(weights / (weights * counts).sum() * counts.sum(), dtype=torch.float32)


class Stepper:
    """Forward, backward and the optimizer's step, in the precision, parts and processes that the settings ask for.

    head(features, labels, weights, counts) is the loss of a batch (see losses.CosineHead). parts: all whose state
    a checkpoint has to hold.
    """

    def __init__(
        self,
        net: nn.Module,
        head: nn.Module,
        data: TrainSet,
        settings: Optimisation,
        run: Run,
        steps: int,
        frozen_batch_norm: bool,
    ):
        device, ranks = run.device, run.ranks
        # Convolutions are faster so, on a CPU as on a GPU.
        net.to(device, memory_format=torch.channels_last)
        head.to(device)
        if ranks.size > 1:
            net = synchronise_batch_norm(net, device, ranks)
        self.net, self.head, self.settings, self.run = net, head, settings, run
        self.frozen_batch_norm = frozen_batch_norm
        self.labels = torch.from_numpy(data.labels).to(device)
        self.weights = None
        if settings.class_weight:
            self.weights = class_weights(data.labels, settings.class_weight).to(device)
        self.optimizer, self.annealing = make_optimizer(net, head, settings, steps)
        self.precision = pick_precision(settings.precision, device)
        # From torch's own first scale of 2**16 the first steps would overflow and be passed over.
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=2.0**10, enabled=self.precision == torch.float16
        )
        self.parts = {
            "net": net,
            "head": head,
            "optimizer": self.optimizer,
            "annealing": self.annealing,
            "scaler": self.scaler,
        }
        self.average = None
        if settings.ema:
            average = get_ema_multi_avg_fn(settings.ema)
            self.average = self.parts["average"] = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        if frozen_batch_norm:
            freeze_batch_norm(net)
        if settings.compile:
            compiler = os.environ.get("CXX", "g++")
            if device.type == "cpu" and not shutil.which(compiler):
                raise UserError(
                    f"compile: on a CPU it needs {compiler}, which is not there; install it, or set false"
                )
            net.compile()
        self.forward = net
        if ranks.size > 1:
            # Only now: parameters that do not learn must be known. Some backbones have a head that is not used.
            self.forward = DistributedDataParallel(net, find_unused_parameters=True)

    @property
    def result(self) -> nn.Module:
        return self.net if self.average is None else self.average.module

    @property
    def learning_rate(self) -> float:
        """The backbone's, of the next step."""
        return self.annealing.get_last_lr()[0]

    def is_finite(self) -> bool:
        """Whether every weight is, in every process."""
        values = [*self.net.parameters(), *self.head.state_dict().values()]
        wrong = torch.tensor(float(not all(torch.isfinite(value).all() for value in values)))
        return not add_up(wrong, self.run.ranks)

    def epoch(
        self, loader: Loader, epoch: int, batches: list[Batch], done: int, title: str
    ) -> Iterator[tuple[Batch, float, float, float]]:
        """Do a step for each batch; yield it with its loss, the learning rate it took, and the seconds.

        done: the steps before, of all epochs.
        """
        accumulate, ranks = self.settings.accumulate, self.run.ranks
        self.net.train()
        if self.frozen_batch_norm:
            freeze_batch_norm(self.net)
        images = loader.load(
            [(epoch, batch.group, int(row)) for row in part[ranks.rank]]
            for batch in batches
            for part in batch.parts(accumulate, ranks.size)
        )
        sizes = [len(batch.rows) for batch in batches]
        loss = math.nan
        began = time.perf_counter()
        if ranks.first:
            batches = track(batches, sum(sizes), title, "images", sizes, lambda: f"loss {loss:.3f}")
        for number, batch in enumerate(batches, done):
            rate = self.learning_rate
            loss = self.step(number, batch, images)
            now = time.perf_counter()
            yield batch, loss, rate, now - began
            began = now

    def step(self, number: int, batch: Batch, images: Iterator[torch.Tensor]) -> float:
        """One step, over this process's images (B, 3, H, W) uint8 of each part of the batch; returns the loss.

        number: of steps before it, of all epochs.
        """
        ranks, seed = self.run.ranks, [self.run.seed, number]
        parts = batch.parts(self.settings.accumulate, ranks.size)
        # Layers that draw at random (dropout, stochastic depth) draw the same in a continued run.
        torch.manual_seed(int(np.random.SeedSequence([*seed, ranks.rank]).generate_state(1, np.uint64)[0] >> 1))
        total = 0.0
        with self.head.step(self.optimizer, self.labels[torch.from_numpy(batch.rows)], seed):
            for number_of_part, part in enumerate(parts, 1):
                rows = torch.from_numpy(np.concatenate(part)).to(self.labels.device)
                labels = self.labels[rows]
                weights = None if self.weights is None else self.weights[labels]
                last = number_of_part == len(parts)
                waits = ranks.size > 1 and not last
                with self.forward.no_sync() if waits else nullcontext(), _memory_told(batch):
                    loss = self._loss(next(images), labels, weights, [len(rows) for rows in part])
                    loss = loss * (len(rows) / len(batch.rows))
                    self.scaler.scale(loss).backward()
                total += loss.item()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        self.annealing.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        return total

    def _loss(self, images, labels, weights, counts) -> torch.Tensor:
        reduced = self.precision != torch.float32
        with torch.autocast(images.device.type, dtype=self.precision if reduced else None, enabled=reduced):
            features = self.forward(to_input(self.net, images))
        return self.head(features, labels, weights, counts)


@contextmanager
def _memory_told(batch: Batch) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"training: a batch of {len(batch.rows)} images does not fit the GPU's memory; set accumulate to 2 or"
            " more, so that it is passed in that many parts, or lower batch_size"
        ) from error
