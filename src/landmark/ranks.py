"""Sharing a step's work among the processes that torchrun starts, on one machine or several."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from heapq import heapify, heapreplace

from landmark.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process's number among `size`. Without torchrun it is alone, and nothing here waits."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def agree(self, ask: Callable[[], object]) -> object:
        """What `ask` answers in the first process, in every process; on a UserError there, all of them end."""
        if self.size == 1:
            return ask()
        import torch.distributed as dist

        answer = [None, None]
        if self.first:
            try:
                answer = [ask(), None]
            except UserError as error:
                answer = [None, error]
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            # The first process tells the user; one line is enough.
            raise answer[1] if self.first else SystemExit(1)
        return answer[0]

    def first_then_all(self, make: Callable[[], object]) -> object:
        """`make()` of this process, where the first one's may write what the others' then find."""
        mine = []
        self.agree(lambda: mine.append(make()))
        return mine[0] if mine else make()

    def share(self, items: Sequence, costs: Sequence[float] | None = None) -> list:
        """This process's part of `items`: in turn, or by `costs` so that the sums of the processes are near.

        By costs the dearest item goes first, each to the process with the least so far (LPT scheduling).
        """
        if costs is None:
            return list(items[self.rank :: self.size])
        loads = [(0, rank) for rank in range(self.size)]
        heapify(loads)
        mine = []
        for place in sorted(range(len(items)), key=lambda i: (-costs[i], i)):
            load, rank = loads[0]
            heapreplace(loads, (load + costs[place], rank))
            if rank == self.rank:
                mine.append(items[place])
        return mine


ALONE = Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The processes of torchrun, which talk by gloo, and by nccl where each has a GPU; or this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    has_own_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart the store still has the addresses of the processes that died (pytorch issue 135712). Of
        # several machines each counts its restarts alone; there it takes TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
        store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_own_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        # One process may work for days on what the others wait for; a dead one is torchrun's to notice.
        timeout=timedelta(days=30),
    )
    yield Ranks(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()
