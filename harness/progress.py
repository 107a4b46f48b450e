"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere.

Work that took a second or more leaves one line; shorter work leaves none.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
SHORTEST = 1.0  # seconds of work that leaves a line
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
    lines = _Lines(label, total)
    if sys.stderr.isatty() and PLAIN_VARIABLE not in os.environ:
        with _bar() as bar:
            yield _Bar(bar, bar.add_task(label, total=total), lines)
    else:
        yield lines
    lines.end()


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "3 min", "1.7 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Bar:
    """A bar on a terminal, with the note behind the label; the bar goes when the work is done, and `lines` stays."""

    def __init__(self, bar: "Progress", task: "TaskID", lines: "_Lines") -> None:
        self._bar, self._task, self._lines = bar, task, lines

    def __call__(self, count: int, /) -> None:
        self._bar.advance(self._task, count)
        self._lines.done += count

    def note(self, text: str) -> None:
        self._bar.update(self._task, description=f"{self._lines.label} ({text})")
        self._lines.note(text)


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
        transient=True,
    )


class _Lines:
    """Lines in place of a bar: one per PLAIN_INTERVAL, and one at the end."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.done = label, 0
        self._total, self._note = total, ""
        self._start = self._last = time.monotonic()

    def __call__(self, count: int, /) -> None:
        self.done += count
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL:
            self._last = now
            rate = self.done / (now - self._start)
            left = f", {duration((self._total - self.done) / rate)} left" if self._total and rate else ""
            print(
                f"{self.label}: {self.done}/{self._total or '?'} ({rate:.1f}/s{left}{self._note})",
                file=sys.stderr,
                flush=True,
            )

    def note(self, text: str) -> None:
        self._note = f", {text}"

    def end(self) -> None:
        took = time.monotonic() - self._start
        if took >= SHORTEST:
            print(f"{self.label}: {self.done} in {took:.1f} s{self._note}", file=sys.stderr, flush=True)
