"""Doing many small things on several cores, in order and within bounds."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
