"""Cosine softmax losses: ArcFace, CosFace and AdaCos, over all labels or a sample, in one process or several."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from landmark.collectives import add_up, add_up_exponents, gather, join_rows
from landmark.errors import UserError
from landmark.ranks import ALONE, Ranks


def arcface(cosine: torch.Tensor, margin: float) -> torch.Tensor:
    """cos(theta + m) of the true class's cos(theta), of any shape (Deng et al., CVPR 2019, eq. 3).

    Beyond theta + m = pi the cosine would rise again; there it falls on with cos(theta) - m sin(m), as in the
    authors' published code. cos(theta + m) is expanded, since acos has no finite slope at 1.
    """
    sine = torch.sqrt((1 - cosine.square()).clamp(min=1e-7))
    shifted = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), shifted, cosine - margin * math.sin(margin))


def cosface(cosine: torch.Tensor, margin: float) -> torch.Tensor:
    """cos(theta) - m of the true class's cos(theta), of any shape (Wang et al., CVPR 2018, eq. 4)."""
    return cosine - margin


MARGINS = {"arcface": arcface, "cosface": cosface, "adacos": lambda cosine, _: cosine}


class Head(nn.Module):
    """The loss of a batch: forward(features, labels, weights, counts), as CosineHead says."""

    @contextmanager
    def step(self, optimizer: torch.optim.Optimizer, labels: torch.Tensor, seed: list[int]) -> Iterator[None]:
        """Around forward, backward and the optimizer's step over a batch with these labels of all processes."""
        yield


class CosineHead(Head):
    """A centre for each label, and the cross entropy over scaled cosines with a margin.

    It is computed in float32 whatever autocast says: at scale 30 the rounding of bfloat16 is as large as the
    margin's effect. Of several processes each holds the centres of its part of the labels alone, and takes part in
    the loss of the whole batch; `centres` is then (classes / processes, D). Raises UserError for AdaCos with fewer
    than three labels.
    """

    def __init__(self, dim: int, classes: int, loss: str, margin: float, scale: float, ranks: Ranks = ALONE):
        super().__init__()
        whole = nn.init.xavier_uniform_(torch.empty(classes, dim))
        self.ranks = ranks
        self.counts = [len(part) for part in np.array_split(np.arange(classes), ranks.size)]
        self.start = sum(self.counts[: ranks.rank])
        self.centres = nn.Parameter(self.mine(whole).clone())
        self.margined, self.margin = MARGINS[loss], margin
        self.adapts = loss == "adacos"
        if self.adapts:
            if classes < 3:
                raise UserError(f"loss: adacos needs three or more labels, here are {classes}")
            scale = math.sqrt(2) * math.log(classes - 1)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(
        self,
        descriptors: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
        counts: list[int] | None = None,
    ) -> torch.Tensor:
        """The mean loss of a batch, a float32 scalar.

        descriptors: this process's (B, D), of any length. labels, weights: (N,) of the batch of all processes, in
        order of rank; counts: how many of them each process has. Alone, N = B. weights: what an image counts.
        """
        with torch.autocast(descriptors.device.type, enabled=False):
            everyone = gather(F.normalize(descriptors.float()), counts, self.ranks, summed=True)
            cosine = F.linear(everyone, F.normalize(self.rows()))
            column = self.columns(labels)
            here = torch.nonzero(column >= 0)[:, 0]
            target = cosine.new_zeros(len(labels)).index_put((here,), cosine[here, column[here]])
            if self.adapts and self.training:
                self._adapt(cosine.detach(), add_up(target.detach(), self.ranks))
            shifted = cosine.index_put((here, column[here]), self.margined(target[here], self.margin))
            logits = self.scale * shifted
            true = logits.new_zeros(len(labels)).index_put((here,), logits[here, column[here]])
            losses = add_up_exponents(logits.logsumexp(dim=1), self.ranks) - add_up(true, self.ranks)
            return (losses if weights is None else losses * weights).mean()

    def rows(self) -> torch.Tensor:
        """The centres (R, D) that take part, of any length."""
        return self.centres

    def columns(self, labels: torch.Tensor) -> torch.Tensor:
        """For each label (N,) its place in `rows`, or -1 where another process has it."""
        place = labels - self.start
        return torch.where((place >= 0) & (place < self.counts[self.ranks.rank]), place, -1)

    def _adapt(self, cosine: torch.Tensor, target: torch.Tensor) -> None:
        """AdaCos's scale for this batch (Zhang et al., CVPR 2019, eq. 10 and 11)."""
        everything = add_up_exponents((self.scale * cosine).logsumexp(dim=1), self.ranks).exp()
        others = (everything - (self.scale * target).exp()).mean()
        median = target.clamp(-1, 1).acos().median()
        self.scale.copy_(others.log() / median.clamp(max=math.pi / 4).cos())

    def mine(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of a tensor with a row for each label."""
        return whole[self.start : self.start + self.counts[self.ranks.rank]]

    def joined(self, state: dict) -> dict:
        """A state dict with the rows of all processes, in the first of them; every process calls it.

        What has a row for each of this process's labels is joined; the rest is alike everywhere.
        """
        shape = self.centres.shape
        return {
            name: join_rows(value, self.counts, self.ranks) if getattr(value, "shape", None) == shape else value
            for name, value in state.items()
        }

    def parted(self, state: dict) -> dict:
        """The same back again: of a state dict with the rows of all labels, this process's part."""
        shape = (sum(self.counts), self.centres.shape[1])
        return {
            name: self.mine(value).clone() if getattr(value, "shape", None) == shape else value
            for name, value in state.items()
        }


class SampledHead(CosineHead):
    """CosineHead for very many labels: each step looks at a share of the centres, and moves only these.

    Partial FC (An et al., CVPR 2022): the batch's labels, and others drawn at random until there are
    `sample_rate` of them. Neither the logits nor the gradients nor the optimizer's work grow with those left out.
    """

    def __init__(self, *arguments, sample_rate: float, **options):
        super().__init__(*arguments, **options)
        # Not parameters: the optimizer sees only the rows that were drawn.
        centres = self.centres.detach()
        del self.centres
        self.register_buffer("centres", centres)
        self.register_buffer("momentum", torch.zeros_like(centres))
        self.sample_rate = sample_rate
        self._rows = nn.Parameter(torch.empty(0, centres.shape[1]))
        self._chosen = torch.empty(0, dtype=torch.int64)

    def rows(self) -> torch.Tensor:
        return self._rows if len(self._chosen) else self.centres

    def columns(self, labels: torch.Tensor) -> torch.Tensor:
        place = super().columns(labels)
        if not len(self._chosen):
            return place
        found = torch.searchsorted(self._chosen, place.clamp(min=0))
        return torch.where(place >= 0, found, -1)

    @contextmanager
    def step(self, optimizer: torch.optim.Optimizer, labels: torch.Tensor, seed: list[int]) -> Iterator[None]:
        self._chosen = self._draw(labels, seed)
        self._rows.data = self.centres[self._chosen]
        optimizer.state[self._rows]["momentum_buffer"] = self.momentum[self._chosen]
        yield
        self.centres[self._chosen] = self._rows.detach()
        self.momentum[self._chosen] = optimizer.state.pop(self._rows)["momentum_buffer"]
        self._rows.data = self._rows.data[:0]
        self._rows.grad = None
        self._chosen = self._chosen[:0]

    def _draw(self, labels: torch.Tensor, seed: list[int]) -> torch.Tensor:
        """The rows that take part, ascending: those of the batch, and others at random."""
        place = super().columns(labels).unique()
        needed = place[place >= 0]
        wanted = max(1, len(needed), round(self.sample_rate * len(self.centres)))
        drawn = np.random.default_rng([*seed, self.ranks.rank]).random(len(self.centres), np.float32)
        drawn[needed.cpu().numpy()] = -1
        chosen = np.sort(np.argpartition(drawn, wanted - 1)[:wanted])
        return torch.from_numpy(chosen).to(labels.device)


def cosine_head(
    dim: int, classes: int, loss: str, margin: float, scale: float, sample_rate: float | None, ranks: Ranks
) -> CosineHead:
    """The head over all labels, or over a sample of them in each step."""
    if sample_rate is None:
        return CosineHead(dim, classes, loss, margin, scale, ranks)
    return SampledHead(dim, classes, loss, margin, scale, ranks, sample_rate=sample_rate)
