"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


def track(items: Iterable, total: int, what: str, unit: str = "it") -> Iterator:
    """Yield the items, showing how many of `total` are done on stderr."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit=unit, leave=False)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= _SECONDS_BETWEEN_LINES:
            shown = now
            line = tqdm.format_meter(done, total, now - start, ncols=0, unit=unit, prefix=what)
            print(line, file=sys.stderr, flush=True)
