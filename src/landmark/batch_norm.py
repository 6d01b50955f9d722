"""Batch norm where a plain layer does not do: frozen for fine-tuning, and of a batch that processes share."""

import timm.layers
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from landmark.collectives import add_up
from landmark.ranks import Ranks


def freeze_batch_norm(net: nn.Module) -> None:
    """Put every batch norm in evaluation and stop its affine parameters from learning.

    Call it after each `net.train()`, which turns the statistics on again.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.requires_grad_(False)


def synchronise_batch_norm(net: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """Let every batch norm take its statistics from the batches of all processes together.

    The names in the state dict stay. torch has such a layer for GPUs only; on a CPU the layers of `net` learn it.
    """
    if device.type == "cuda":
        return timm.layers.convert_sync_batchnorm(net)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            module.__class__ = type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {"ranks": ranks})
    return net


class _Synchronised:
    """Put before a batch norm class: in training its statistics are those of all processes' batches together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        along = (1, -1) + (1,) * (x.ndim - 2)
        wide = x.float()
        count = add_up(torch.tensor(float(x.numel() // x.shape[1])), self.ranks)
        mean = add_up(wide.sum(dims), self.ranks, summed=True) / count
        centred = wide - mean.view(along)
        variance = add_up(centred.square().sum(dims), self.ranks, summed=True) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        y = centred * torch.rsqrt(variance + self.eps).view(along)
        if self.affine:
            y = y * self.weight.view(along) + self.bias.view(along)
        y = y.to(x.dtype)
        return self.act(self.drop(y)) if isinstance(self, BatchNormAct2d) else y
