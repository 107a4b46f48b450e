"""The log of requests to a judge, one line per attempt; what was answered is never asked again.

Several processes may append to one folder; a kill loses at most the line that is being written.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.endpoints.spend import Spend, SpendRecord, locked
from harness.errors import UserError

LINES = "requests.jsonl"


class JudgeLog:
    """The folder of a run's judge: requests.jsonl, and what was spent. The first request creates it.

    A row has a "reply" or an "error", and a "key" of everything that changes the answer. A reply that is not "kept" (it
    was truncated) is asked for again. Memory holds only the place of each kept reply in the file.
    """

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / LINES
        self.spend = Spend(folder, self._recount)
        self._places: dict[str, tuple[int, int]] = {}  # key -> offset and length of its first reply
        self._read = self._lines = 0  # bytes and lines of the file that were read

    def stored(self) -> int:
        """Count the replies stored by any process."""
        self._look()
        return len(self._places)

    def spent(self) -> SpendRecord:
        """Return what all processes have spent so far."""
        return self.spend.read()

    def holds(self, key: str) -> bool:
        """Whether a reply with this key is stored."""
        self._look()
        return key in self._places

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the row that holds the reply with this key, if there is one."""
        self._look()
        if key not in self._places:
            return None
        offset, length = self._places[key]
        with open(self.file, "rb") as file:
            file.seek(offset)
            row: dict[str, Any] = json.loads(file.read(length))
        return row

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append whole lines, which are on the disk when this returns.

        Raises:
            UserError: when they cannot be written, such as on a full disk.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            with locked(self.folder), open(self.file, "ab+", buffering=0) as file:
                end = _cut_torn_line(file.fileno())
                if file.write(lines) < len(lines):
                    file.truncate(end)
                    raise UserError(f"{self.file}: a reply cannot be stored: is the disk full?")
                handle = os.dup(file.fileno())
            try:
                os.fsync(handle)  # others may append meanwhile
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(f"{self.file}: a reply cannot be stored ({error.strerror})") from None

    def _look(self) -> None:
        """Read what was appended since; a line without its end is still being written, or was torn by a kill."""
        for offset, line, row in self._rows(self._read):
            self._read, self._lines = offset + len(line), self._lines + 1
            if _is_kept(row):
                self._places.setdefault(row["key"], (offset, len(line)))

    def _recount(self) -> tuple[int, float]:
        """Return calls and USD of all rows; rows of local engines are not calls."""
        calls = [row for _, _, row in self._rows(0) if row.get("endpoint")]
        return len(calls), sum(row["usd"] for row in calls)

    def _rows(self, offset: int) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        try:
            if self.file.stat().st_size <= offset:
                return
        except FileNotFoundError:
            return
        with open(self.file, "rb") as file:
            file.seek(offset)
            for number, line in enumerate(file, 1 + (self._lines if offset else 0)):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict) or "key" not in row:
                    raise UserError(f"{self.file}:{number}: not a row of a judge's log: delete this line to continue")
                yield offset, line, row
                offset += len(line)


def _is_kept(row: dict[str, Any]) -> bool:
    """Whether a row's reply is kept. Earlier versions did not store that: a text that reached its length was not."""
    reply = row.get("reply")
    if not isinstance(reply, dict):
        return False
    return bool(row.get("kept", reply.get("finish_reason") != "length" or reply.get("first_token")))


def _cut_torn_line(handle: int) -> int:
    """Cut off a last line without its end, and return the size of the file. The lock is held: nobody writes it."""
    end = os.fstat(handle).st_size
    whole = end
    while whole:
        start = max(0, whole - 65536)
        newline = os.pread(handle, whole - start, start).rfind(b"\n")
        if newline >= 0:
            whole = start + newline + 1
            break
        whole = start
    if whole < end:
        os.ftruncate(handle, whole)
    return whole
