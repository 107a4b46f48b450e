"""Calls and USD spent on judges, counted in one small file for all processes and resumed runs that share a folder.

Each call is reserved before it is made, at the most that it can cost, and settled with what it did cost. A call that
nobody settles (its process was killed) stays at its reserved cost, so that a cap is never passed.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from harness.errors import UserError
from harness.files import store
from harness.files.disk import TEMPORARY, remove, writing

ROUNDING = 1e-9  # USD


class CapReached(UserError):
    """No call can be made any more. `option` is the one that raises the cap."""

    def __init__(self, text: str, option: str):
        super().__init__(text)
        self.option = option


@dataclass
class SpendRecord:
    """The file's content. in_flight: reservation -> [the most it can cost, when it ended for certain]."""

    calls: int = 0
    usd: float = 0.0
    in_flight: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """USD, what is in flight included at its most."""
        return self.usd + sum(most for most, _ in self.in_flight.values())

    def settle(self, reservation: str, usd: float) -> None:
        if self.in_flight.pop(reservation, None) is not None:
            self.usd += usd


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that use a folder, which is made if need be."""
    with writing(folder / "lock"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 (closed below)
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Spend:
    """The counts of a folder."""

    def __init__(self, folder: Path, recount: Callable[[], tuple[int, float]]):
        """
        Args:
            recount: calls and USD by the log, for a folder without the file, or with an empty one.
        """
        self.folder, self.file = folder, folder / "spent.json"
        self.recount = recount

    def read(self) -> SpendRecord:
        if self.file.exists() and self.file.stat().st_size:
            return SpendRecord(**store.read_json(self.file))
        return SpendRecord(*self.recount())

    def _write(self, spent: SpendRecord) -> None:
        """Whole or not at all for a kill. It is not forced to the disk: after a power failure the log can count."""
        draft = self.file.with_name(f".{self.file.name}{TEMPORARY}")
        try:
            with writing(self.file):
                draft.write_text(json.dumps(vars(spent)) + "\n")
                os.replace(draft, self.file)
        finally:
            remove(draft)

    def reserve(self, most: float, max_calls: int | None, max_cost: float | None, seconds: float) -> str | None:
        """Counts a call that costs at most `most` and surely ends within `seconds`.

        Returns:
            A reservation to be settled, or None when the call only fits if calls in flight cost less than their most.

        Raises:
            CapReached: when it can not fit.
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
        """Replaces what was reserved by what it cost; nothing changes where it was given up as ended."""
        with locked(self.folder):
            spent = self.read()
            spent.settle(reservation, usd)
            self._write(spent)
