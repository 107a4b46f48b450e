"""Files of a run folder: written whole or not at all, read with errors that name file and line."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.files import disk
from harness.files.disk import TEMPORARY

LOCK = ".lock"  # in a folder: locked by the process that writes there
LONGEST_NAME = 100  # characters; with our suffixes, file names stay within 255 bytes


def digest(value: Any) -> str:
    """Return a key for plain data: sha256 of its canonical JSON, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(_encoded(text)).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, as sha256sum prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears at `path` when the block ends well, and not at all otherwise."""
    with disk.whole(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically; a file that already holds this text is left alone."""
    content = _encoded(text)
    if path.is_file() and path.read_bytes() == content:
        return
    with _whole(path) as file:
        file.write(content)


def _encoded(text: str) -> bytes:
    """Encode as UTF-8; half of a surrogate pair, which UTF-8 cannot hold, becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """Return data that JSON can hold: NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, with null for NaN and infinities, which JSON lacks."""
    write_text(path, _json(value, indent=2) + "\n")


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with row_writer(path) as writer:
        for row in rows:
            writer.add(row)


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to a file of JSON lines."""
    with disk.writing(path), open(path, "ab") as file:
        for row in rows:
            file.write(_encoded(_json(row) + "\n"))


class RowWriter:
    """Writes rows of JSON lines, and can take the last ones back."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._ends = [0]  # of the rows, in bytes

    def add(self, row: dict[str, Any]) -> None:
        line = _json(row) + "\n"
        self._ends.append(self._ends[-1] + self._file.write(_encoded(line)))

    def keep(self, number: int) -> None:
        """Drop all rows after the first `number`."""
        del self._ends[number + 1 :]
        self._file.seek(self._ends[-1])
        self._file.truncate()


@contextmanager
def row_writer(path: Path) -> Iterator[RowWriter]:
    """Yield a writer for rows that come one at a time; the file appears when the block ends well."""
    with _whole(path) as file:
        yield RowWriter(file)


class _NotANumber(Exception):
    pass


def _refuse_constant(name: str) -> float:
    raise _NotANumber(f"not JSON ({name} is not a number)")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except _NotANumber as error:
        raise UserError(f"{path}: {error}; delete the file to recompute it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); delete the file to recompute it") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line, parse_constant=_refuse_constant)
            except _NotANumber as error:
                raise UserError(f"{path}:{number}: {error}; delete the file to recompute it") from None
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON ({error.msg}); delete the file to recompute it") from None


def safe_name(name: str) -> str:
    """Return the name if any system accepts it for a file or folder.

    Raises:
        UserError: for any other name.
    """
    odd = not name.isprintable() or any(mark in name for mark in '/\\<>:"|?*')
    if not name or name[0] in ".-" or odd or len(name) > LONGEST_NAME:
        raise UserError(
            f"name {name!r:.120} is not allowed: use letters, digits, '-', '_' and '.', neither dot nor hyphen first, "
            f"at most {LONGEST_NAME} characters"
        )
    return name


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other processes that use this lock from writing in the folder. The lock of a dead process is free.

    Raises:
        UserError: when another process has the lock, naming that process.
    """
    file = path / LOCK
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    with disk.writing(file):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            owner = file.read_text().strip() or "another process"
            raise UserError(f"{path} is in use by {owner}: wait for it, or choose another --name") from None
    try:
        with disk.writing(file):
            file.write_text(f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        for left in list(path.rglob(f".*{TEMPORARY}")):  # by a process that was killed while it wrote
            if not (left.parent / "lock").exists():  # a judge's log, which other runs may be writing
                disk.remove(left)
        yield
        with disk.writing(file):
            file.write_text("")
    finally:
        lock.release()
