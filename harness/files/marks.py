"""Finished steps of a folder: a mark for each, with all that it was made from and the digests of the files it left.

The mark is written when the files are whole. A step with a mark is not done again while it depends on the same things;
when it depends on others, that is an error which names them: nothing that was made is replaced unasked.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import store
from harness.files.store import digest, safe_name

NAMED = 3  # differences in a message
LONGEST_VALUE = 60  # characters of a value in a message


@dataclass(frozen=True)
class Mark:
    """key: digest of depends_on. files: path below the folder -> SHA-256. facts: what later steps must know."""

    key: str
    depends_on: dict[str, Any]
    files: dict[str, str]
    facts: dict[str, Any]


class Folder:
    """A folder with finished steps in it."""

    def __init__(self, path: Path):
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def folder(self, name: str) -> "Folder":
        return Folder(self.path / safe_name(name))

    def _file(self, step: str) -> Path:
        return self.path / "steps" / f"{safe_name(step)}.json"

    def steps(self) -> list[str]:
        """Names of all steps that have a mark."""
        return sorted(file.stem for file in (self.path / "steps").glob("*.json"))

    def mark(self, step: str) -> Mark | None:
        """
        Raises:
            UserError: when the file of the mark was damaged.
        """
        file = self._file(step)
        return read_mark(file) if file.exists() else None

    def finished(self, step: str, depends_on: dict[str, Any]) -> bool:
        """Whether the step was done, from these things.

        Raises:
            UserError: when it was done from others, naming them.
        """
        mark = self.mark(step)
        if mark and mark.key != digest(depends_on):
            changes = [f"{name} ({old}, now {new})" for name, old, new in differences(mark.depends_on, depends_on)]
            more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
            raise UserError(
                f"{self.path}: step {step} was made with another {', '.join(changes[:NAMED])}{more}. Put that back, "
                f"take another folder (--name), or make it and what follows from it anew: --restart-from {step}"
            )
        return mark is not None

    def whole(self, step: str) -> bool:
        """Whether all files of a finished step are there."""
        mark = self.mark(step)
        return mark is not None and all((self.path / name).exists() for name in mark.files)

    def finish(self, step: str, depends_on: dict[str, Any], files: Sequence[Path], **facts: Any) -> None:
        """Marks a step as finished; its files (or folders of files) must be whole."""
        each = sorted(file for path in files for file in (path.rglob("*") if path.is_dir() else [path]))
        digests = {str(file.relative_to(self.path)): store.file_digest(file) for file in each if file.is_file()}
        store.write_json(self._file(step), vars(Mark(digest(depends_on), depends_on, digests, facts)))

    def facts(self, step: str) -> dict[str, Any]:
        return self.mark(step).facts

    def damage(self, step: str) -> Iterator[str]:
        """What is wrong with the files of a finished step, a text for each."""
        for name, expected in self.mark(step).files.items():
            file = self.path / name
            if not file.exists():
                yield f"{file} is missing"
            elif store.file_digest(file) != expected:
                yield f"{file} is not what step {step} left there"

    def check(self, step: str) -> None:
        """
        Raises:
            UserError: when a file of a finished step is missing or not what the step left.
        """
        for found in self.damage(step):
            raise UserError(f"{found}: put it back, or delete it to have it made again")

    def forget(self, step: str) -> None:
        self._file(step).unlink(missing_ok=True)


def read_mark(file: Path, read: Callable[[Path], Any] = store.read_json) -> Mark:
    """The mark of a finished step, from its file.

    Raises:
        UserError: when the file was damaged.
    """
    try:
        mark = Mark(**read(file))
    except TypeError:
        mark = None
    if mark is None or not (
        isinstance(mark.key, str)
        and all(isinstance(each, dict) for each in (mark.depends_on, mark.files, mark.facts))
        and all(isinstance(each, str) for each in mark.files.values())
    ):
        raise UserError(f"{file}: is not a mark of a step; delete it to recompute the step")
    return mark


def differences(before: Any, now: Any, name: str = "") -> list[tuple[str, str, str]]:
    """(dotted name, value before, value now) of all leaves in which two nested mappings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            each
            for key in sorted(before.keys() | now.keys())
            for each in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    before, now = (json.dumps(value, ensure_ascii=False, default=str) for value in (before, now))
    return [] if before == now else [(name, _short(before), _short(now))]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
