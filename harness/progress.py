"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
PLAIN_VARIABLE = "HARNESS_PLAIN_PROGRESS"  # set where several processes share one terminal

Advance = Callable[[int], None]  # called with the number of items finished since the last call


@runtime_checkable
class Notable(Protocol):
    """An `Advance` that shows a note beside the number of items, as those of `progress` do."""

    def __call__(self, count: int, /) -> None: ...

    def note(self, text: str) -> None:
        """Replace the note."""


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Notable]:
    """Show the progress of `label` while the block runs, which calls what it gets with the items just finished.

    Args:
        total: number of items, None where it is unknown.
    """
    if sys.stderr.isatty() and PLAIN_VARIABLE not in os.environ:
        with _bar() as bar:
            yield _Bar(bar, bar.add_task(label, total=total), label)
    else:
        plain = _Plain(label, total)
        yield plain
        plain.end()


class _Bar:
    """A bar on a terminal, with the note behind the label."""

    def __init__(self, bar: "Progress", task: "TaskID", label: str) -> None:
        self._bar, self._task, self._label = bar, task, label

    def __call__(self, count: int, /) -> None:
        self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        self._bar.update(self._task, description=f"{self._label} ({text})")


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")

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
    """Lines in place of a bar: one per PLAIN_INTERVAL, and one at the end."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total, self._note = label, total, ""
        self._start = self._last = time.monotonic()
        self._done = 0

    def __call__(self, count: int, /) -> None:
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
