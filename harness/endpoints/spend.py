"""Calls and USD spent on judges, in one small file for all processes and resumed runs that share a folder.

Each call is reserved before it is made, at the most that it can cost, and settled at what it did cost. A call that is
never settled, as its process was killed, counts at its reserved cost, so that no cap is exceeded.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from harness.errors import UserError
from harness.files import store
from harness.files.disk import TEMPORARY, remove, writing

SPENT = "spent.json"  # in the folder of a judge's log
ROUNDING = 1e-9  # USD
POLL = 0.002  # seconds between two tries to get the lock, which is held for about as long


class CapReached(UserError):
    """The cap leaves no room for another call. `option` raises the cap."""

    def __init__(self, text: str, option: str):
        super().__init__(text)
        self.option = option


@dataclass
class SpendRecord:
    """The file's content. in_flight: reservation -> [the most it can cost in USD, Unix time by which it has ended]."""

    calls: int = 0
    usd: float = 0.0
    in_flight: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """USD spent, and the most that calls in flight can cost."""
        return self.usd + sum(most for most, _ in self.in_flight.values())

    def settle(self, reservation: str, usd: float) -> None:
        if self.in_flight.pop(reservation, None) is not None:
            self.usd += usd


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if need be. The lock of a dead process is free."""
    lock = FileLock(folder / "lock", poll_interval=POLL, fallback_to_soft=False)
    with writing(folder / "lock"):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Spend:
    """Calls and USD of a folder."""

    def __init__(self, folder: Path, recount: Callable[[], tuple[int, float]]):
        """
        Args:
            recount: computes calls and USD from the log, for a folder whose file is missing or empty.
        """
        self.folder, self.file = folder, folder / SPENT
        self.recount = recount

    def read(self) -> SpendRecord:
        if self.file.exists() and self.file.stat().st_size:
            return SpendRecord(**store.read_json(self.file))
        return SpendRecord(*self.recount())

    def _write(self, spent: SpendRecord) -> None:
        """Write the file whole or not at all. It is not synced: after a power failure, the log is counted again."""
        draft = self.file.with_name(f".{self.file.name}{TEMPORARY}")
        try:
            with writing(self.file):
                draft.write_text(json.dumps(vars(spent)) + "\n")
                os.replace(draft, self.file)
        finally:
            remove(draft)

    def reserve(self, most: float, max_calls: int | None, max_cost: float | None, seconds: float) -> str | None:
        """Count a call that costs at most `most` USD and ends within `seconds`.

        Returns:
            A reservation to settle, or None if the call fits only when calls in flight cost less than their most.

        Raises:
            CapReached: when the call cannot fit.
        """
        with locked(self.folder):
            spent = self.read()
            now = time.time()
            for reservation, (kept, end) in list(spent.in_flight.items()):
                if end < now:
                    spent.settle(reservation, kept)
            if max_calls is not None and spent.calls >= max_calls:
                raise CapReached(f"the judge's cap is reached: {spent.calls} calls of {max_calls}", "--judge-max-calls")
            if max_cost is not None and spent.total + most > max_cost + ROUNDING:
                if spent.in_flight:
                    return None
                raise CapReached(
                    f"the judge's cap is reached: {spent.usd:.4f} USD of {max_cost:g} are spent and the next call can "
                    f"cost {most:.4f}",
                    "--judge-max-cost",
                )
            reservation = uuid4().hex
            spent.calls += 1
            spent.in_flight[reservation] = [most, now + seconds]
            self._write(spent)
            return reservation

    def settle(self, reservation: str, usd: float) -> None:
        """Replace the reserved cost by the actual one, unless the reservation has expired."""
        with locked(self.folder):
            spent = self.read()
            spent.settle(reservation, usd)
            self._write(spent)
