"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


@contextmanager
def meter(
    total: int, what: str, unit: str = "it", note: Callable[[], str] = str, initial: int = 0
) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts more of `total` as done and shows it on stderr, for one thread at a time.

    initial: what was done before, which tells nothing of the rate. unit: with "B" for bytes, numbers are shown as
    10.2M. note: what to show behind, asked for when it is shown.
    """
    scaled = unit == "B"
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=unit, unit_scale=scaled, initial=initial, leave=False) as bar:

            def advance(count: int) -> None:
                bar.initial = _given_up(bar.initial, count)
                bar.set_postfix_str(note(), refresh=False)
                bar.update(count)

            yield advance
        return
    start = shown = time.monotonic()
    done = initial

    def advance(count: int) -> None:
        nonlocal done, initial, shown
        done += count
        initial = _given_up(initial, count)
        now = time.monotonic()
        if now - shown >= _SECONDS_BETWEEN_LINES:
            shown = now
            line = tqdm.format_meter(
                done,
                total,
                now - start,
                ncols=0,
                unit=unit if scaled else f" {unit}",
                unit_scale=scaled,
                prefix=what,
                postfix=note() or None,
                initial=initial,
            )
            print(line, file=sys.stderr, flush=True)

    yield advance


def _given_up(initial: int, count: int) -> int:
    """What is still of before, where a `count` below 0 is given up: that first, so that the rate stays a rate."""
    return max(0, initial + min(0, count))


def track(
    items: Iterable,
    total: int,
    what: str,
    unit: str = "it",
    sizes: Iterable[int] | None = None,
    note: Callable[[], str] = str,
) -> Iterator:
    """Yield the items, showing how many of `total` are done on stderr.

    sizes: what each item counts, where it is more than one. note: as of `meter`.
    """
    counts = iter(sizes) if sizes is not None else None
    with meter(total, what, unit, note) as advance:
        for item in items:
            yield item
            advance(next(counts) if counts else 1)
