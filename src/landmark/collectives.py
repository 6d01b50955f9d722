"""What the loss exchanges between processes that share a batch, and how its gradients come back."""

import torch
import torch.distributed as dist

from landmark.ranks import Ranks


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mine: torch.Tensor, counts: list[int], rank: int, summed: bool) -> torch.Tensor:
        ctx.counts, ctx.rank, ctx.summed = counts, rank, summed
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        if ctx.summed:
            gradient = gradient.contiguous()
            dist.all_reduce(gradient)
        # DistributedDataParallel divides the sum of the processes' gradients by their number.
        mine = gradient.split(ctx.counts)[ctx.rank] * len(ctx.counts)
        return mine, None, None, None


def gather(mine: torch.Tensor, counts: list[int], ranks: Ranks, summed: bool = False) -> torch.Tensor:
    """Every process's rows (counts[r], ...) as one (sum(counts), ...), in order of rank, with a gradient.

    summed: each process's loss has a part of the gradient, as when the labels are shared among them, and the
    parts are added; else each has the whole. The gradient is that of the whole batch's mean loss once
    DistributedDataParallel has averaged the parameters' gradients.
    """
    return mine if ranks.size == 1 else _Gather.apply(mine, counts, ranks.rank, summed)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mine: torch.Tensor, summed: bool) -> torch.Tensor:
        ctx.summed = summed
        total = mine.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        if ctx.summed:
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(gradient)
        return gradient, None


def add_up(mine: torch.Tensor, ranks: Ranks, summed: bool = False) -> torch.Tensor:
    """The sum of every process's tensor, in each of them, with a gradient.

    summed: as for `gather`; else every process goes on to the same loss, and each has the whole gradient already.
    """
    return mine if ranks.size == 1 else _Sum.apply(mine, summed)


def add_up_exponents(mine: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """log(sum over the processes of exp(mine)), elementwise, with a gradient."""
    if ranks.size == 1:
        return mine
    top = mine.detach().clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    return top + _Sum.apply((mine - top).exp(), False).log()


def join_rows(mine: torch.Tensor, counts: list[int], ranks: Ranks) -> torch.Tensor | None:
    """Every process's rows as one tensor on the CPU of the first process; None in the others."""
    mine = mine.detach().cpu().contiguous()
    if ranks.size == 1:
        return mine
    if not ranks.first:
        dist.send(mine, dst=0)
        return None
    parts = [mine]
    for rank in range(1, ranks.size):
        parts.append(mine.new_empty(counts[rank], *mine.shape[1:]))
        dist.recv(parts[-1], src=rank)
    return torch.cat(parts)
