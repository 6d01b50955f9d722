"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


def track(
    items: Iterable,
    total: int,
    what: str,
    unit: str = "it",
    sizes: Iterable[int] | None = None,
    note: Callable[[], str] = str,
) -> Iterator:
    """Yield the items, showing how many of `total` are done on stderr.

    sizes: what each item counts, where it is more than one. note: what to show behind, asked for when it is shown.
    """
    counts = iter(sizes) if sizes is not None else None
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=unit, leave=False) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(note(), refresh=False)
                bar.update(next(counts) if counts else 1)
        return
    start = shown = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += next(counts) if counts else 1
        now = time.monotonic()
        if now - shown >= _SECONDS_BETWEEN_LINES:
            shown = now
            line = tqdm.format_meter(
                done, total, now - start, ncols=0, unit=f" {unit}", prefix=what, postfix=note() or None
            )
            print(line, file=sys.stderr, flush=True)
