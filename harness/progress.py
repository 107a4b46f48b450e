"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[int], None]  # called with the number of items finished since the last call
PLAIN_INTERVAL = 10.0  # seconds between two plain lines
PLAIN_VARIABLE = "HARNESS_PLAIN_PROGRESS"  # set where several processes share one terminal


class Noted(Protocol):
    """An `Advance` that can show a note behind the label."""

    def __call__(self, count: int) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Noted]:
    """Shows the work of `label` while the block runs; the block calls what it gets with the items just finished."""
    if sys.stderr.isatty() and PLAIN_VARIABLE not in os.environ:
        with _bar() as bar:
            yield _Bar(bar, bar.add_task(label, total=total), label)
    else:
        plain = _Plain(label, total)
        yield plain
        plain.end()


class _Bar:
    """Called with the items just finished; `note` is shown behind the label."""

    def __init__(self, bar, task, label: str) -> None:
        self._bar, self._task, self._label = bar, task, label

    def __call__(self, count: int) -> None:
        self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        self._bar.update(self._task, description=f"{self._label} ({text})")


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


class _Plain:
    """The same in lines, one every PLAIN_INTERVAL seconds and one at the end."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total, self._note = label, total, ""
        self._start = self._last = time.monotonic()
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL:
            self._last = now
            rate = self._done / (now - self._start)
            left = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
            print(
                f"{self._label}: {self._done}/{self._total or '?'} ({rate:.1f}/s{left}{self._note})",
                file=sys.stderr,
                flush=True,
            )

    def note(self, text: str) -> None:
        self._note = f", {text}"

    def end(self) -> None:
        took = time.monotonic() - self._start
        print(f"{self._label}: {self._done} in {took:.1f} s{self._note}", file=sys.stderr, flush=True)
