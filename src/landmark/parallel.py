"""Doing many small things on several cores, in order and within bounds."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from queue import SimpleQueue
from threading import Thread


def cores() -> int:
    """Cores this process may use; under torchrun its share of the machine's."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def ordered_map(function: Callable, items: Iterable, workers: int, ahead: int = 4) -> Iterator:
    """`map` over threads that keeps the order and at most `ahead` results per worker waiting.

    Threads serve, since decoding, SIFT and RANSAC run in OpenCV outside Python's lock.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead * max(workers, 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def unordered_map(function: Callable, items: Iterable, workers: int) -> Iterator:
    """`map` over threads that yields what is ready first, so that a long item holds up no other."""
    workers = max(workers, 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting = set()
        try:
            for item in items:
                waiting.add(pool.submit(function, item))
                if len(waiting) > workers:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ready)
            yield from (future.result() for future in as_completed(waiting))
        finally:
            # After an error nothing new is begun.
            pool.shutdown(wait=False, cancel_futures=True)


def unattended_map(function: Callable, items: Iterable, workers: int) -> Iterator:
    """`unordered_map` whose threads are left behind at an error or Ctrl-C, which may wait for a server."""
    ready = SimpleQueue()
    waiting = deque(items)
    count = len(waiting)

    def work() -> None:
        while True:
            try:
                item = waiting.popleft()
            except IndexError:  # none is left
                return
            try:
                ready.put((function(item), None))
            except BaseException as error:
                ready.put((None, error))

    for _ in range(min(workers, count)):
        Thread(target=work, daemon=True).start()
    try:
        for _ in range(count):
            result, error = ready.get()
            if error is not None:
                raise error
            yield result
    finally:
        waiting.clear()
