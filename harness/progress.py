"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.engines.base import Advance

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
PLAIN_VARIABLE = "HARNESS_PLAIN_PROGRESS"  # set where several processes share one terminal


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Advance]:
    """Shows the work of `label` while the block runs; the block calls what it gets with the items just finished."""
    if sys.stderr.isatty() and PLAIN_VARIABLE not in os.environ:
        with _bar() as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield from _plain(label, total)


def _bar():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(TextColumn):
        def render(self, task):
            return f"{task.speed:.1f}/s" if task.speed else "-/s"

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _plain(label: str, total: int | None) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            print(f"{label}: {done}/{total or '?'} ({rate:.1f}/s{left})", file=sys.stderr, flush=True)

    yield advance
    print(f"{label}: {done} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
