"""What was asked of judges and what they said: a file of one line an attempt, the cache of replies, and hard caps.

One folder serves all processes of a run and all its resumed calls. Lines are appended whole, under a lock; a line that
a kill cut short is closed off at the next opening. A reply that is in the file is not asked for again.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.judges.base import JudgeReply

LINES, SPENT = "requests.jsonl", "spent.json"


@dataclass
class Spent:
    """Of all processes that use the folder: HTTP attempts, and USD, those reserved for attempts under way included."""

    calls: int = 0
    usd: float = 0.0


class JudgeLog:
    """The log in a folder, which is made when something is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[int, int]] | None = None  # key -> (first byte, bytes) of its reply's line

    def reply(self, key: str) -> JudgeReply | None:
        """The reply stored for a key, if there is one."""
        if self._places is None:
            self._places = self._read()
        if key not in self._places:
            return None
        start, size = self._places[key]
        with open(self.folder / LINES, "rb") as file:
            file.seek(start)
            return JudgeReply(**json.loads(file.read(size))["reply"])

    def write(self, row: dict, reply: JudgeReply | None = None) -> None:
        """Append an attempt; with a reply it answers its row's "key" from then on."""
        line = json.dumps(row | {"reply": asdict(reply) if reply else None}, ensure_ascii=False).encode() + b"\n"
        if self._places is None:
            self._places = self._read()
        with self._spending():
            handle = os.open(self.folder / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                start = os.lseek(handle, 0, os.SEEK_END)
                if os.write(handle, line) != len(line):
                    os.ftruncate(handle, start)
                    raise OSError(f"{self.folder / LINES}: a line could not be written whole: is the disk full?")
                os.fdatasync(handle)
            finally:
                os.close(handle)
        if reply:
            self._places[row["key"]] = (start, len(line))

    def stored(self) -> int:
        """How many requests have their reply."""
        return len(self._places or ())

    def spent(self) -> Spent:
        if not (self.folder / SPENT).exists():
            return Spent()
        with self._spending() as spent:
            return spent

    def reserve(self, usd: float, max_calls: int | None, max_usd: float | None) -> bool:
        """Count one call that may cost so much; False, and nothing counted, where a cap forbids it."""
        with self._spending() as spent:
            if max_calls is not None and spent.calls >= max_calls:
                return False
            if max_usd is not None and spent.usd + usd > max_usd:
                return False
            spent.calls += 1
            spent.usd += usd
            return True

    def settle(self, reserved: float, usd: float) -> None:
        """Put what a call has cost in place of what was reserved for it."""
        with self._spending() as spent:
            spent.usd = max(0.0, spent.usd + usd - reserved)

    @contextmanager
    def _spending(self) -> Iterator[Spent]:
        """Inside, this process alone uses the folder; what it changes of the spending is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / SPENT, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            spent = Spent(**json.loads(text)) if text else Spent()
            yield spent
            after = json.dumps(asdict(spent))
            if after != text:
                file.truncate(0)
                file.write(after)

    def _read(self) -> dict[str, tuple[int, int]]:
        """The places of replies. A last line without its end is given one, so that the next line stands alone."""
        path = self.folder / LINES
        if not path.exists():
            return {}
        places, start = {}, 0
        with self._spending(), open(path, "rb+") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:  # cut short by a kill
                    row = None
                if isinstance(row, dict) and row.get("reply"):
                    places[row["key"]] = (start, len(line))
                start += len(line)
            if start and not line.endswith(b"\n"):
                file.write(b"\n")
        return places
