"""The run folder: every file a step leaves is written through here, whole or not at all.

A finished step has its files and then a mark with the key of what it depends on; a step whose mark has the same key
is not done again.
"""

import fcntl
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import UserError

LOCK = ".lock"  # of a folder: held by the process that writes there


def digest(value: Any) -> str:
    """A key for plain data: sha256 of its canonical JSON, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the `with` ends well, and not at all otherwise: a temporary file beside it,
    fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def tree_digest(path: Path) -> str | None:
    """Of a file's content, or of all files in a folder with their names; None where there is neither."""
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return digest({str(each.relative_to(path)): file_digest(each) for each in files})
    return None


def contents(values: Iterable[Any]) -> dict[str, str]:
    """`tree_digest` of the files and folders that are named among the values."""
    names = (value for value in values if isinstance(value, str))
    return {name: found for name in names if name and (found := tree_digest(Path(name)))}


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically."""
    with _whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    with row_writer(path) as writer:
        for row in rows:
            writer.add(row)


class RowWriter:
    """Adds rows to a file of JSON lines, and can take the last ones back."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._ends = [0]  # of the rows, in bytes

    def add(self, row: dict) -> None:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        self._ends.append(self._ends[-1] + self._file.write(line.encode()))

    def keep(self, number: int) -> None:
        """Drops all rows after the first `number`."""
        del self._ends[number + 1 :]
        self._file.seek(self._ends[-1])
        self._file.truncate()


@contextmanager
def row_writer(path: Path) -> Iterator[RowWriter]:
    """For rows that come one at a time; the file is there when the `with` has ended well."""
    with _whole(path) as file:
        yield RowWriter(file)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); delete the file to make it again") from None


def read_jsonl(path: Path) -> list[dict]:
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON ({error.msg}); delete it to make it again") from None


def safe_name(name: str) -> str:
    """The name itself, when it can not lead out of its folder."""
    if not name or name.startswith(".") or any(mark in name for mark in '/\\\0\n<>:"|?*'):
        raise UserError(f"name {name!r} is not allowed: use letters, digits, '-', '_' and '.', not a dot first")
    return name


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Inside, no other process that asks for it too can write in the folder. A lock whose owner has died is free.

    Raises:
        UserError: when another process has it, naming that process.
    """
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{path} is in use by {owner}: wait for it, or choose another --name") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        file.flush()
        yield
        file.truncate(0)


class Folder:
    """A folder with finished steps in it."""

    def __init__(self, path: Path):
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def folder(self, name: str) -> "Folder":
        return Folder(self.path / safe_name(name))

    def _mark(self, step: str) -> Path:
        return self.path / "steps" / f"{safe_name(step)}.json"

    def finished(self, step: str, key: str) -> bool:
        mark = self._mark(step)
        return mark.exists() and read_json(mark)["key"] == key

    def finish(self, step: str, key: str, **facts: Any) -> None:
        """Mark a step as finished; its files must be written before."""
        write_json(self._mark(step), {"key": key, **facts})

    def facts(self, step: str) -> dict:
        return read_json(self._mark(step))
