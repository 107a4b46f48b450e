"""Finished steps of a folder: a mark for each, with all its inputs and the digests of the files it left.

The mark is written when the files are whole. A step with a mark is not repeated while its inputs are the same. Changed
inputs are an error that names them: no result is replaced unasked.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import store
from harness.files.store import digest, safe_name

NAMED = 3  # differences in a message
LONGEST_VALUE = 60  # characters of a value in a message
DIGEST = re.compile(r'\[?"[0-9a-f]{16,64}["…].*')  # of one or several files, as JSON that may be cut short


@dataclass(frozen=True)
class Mark:
    """The record of a finished step.

    key: digest of depends_on. files: path below the folder -> SHA-256. facts: what later steps need to know.
    """

    key: str
    depends_on: dict[str, Any]
    files: dict[str, str]
    facts: dict[str, Any]


class Folder:
    """A folder that holds finished steps."""

    def __init__(self, path: Path):
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def folder(self, name: str) -> "Folder":
        return Folder(self.path / safe_name(name))

    @property
    def marks(self) -> Path:
        """Folder of the marks of finished steps."""
        return self.path / "steps"

    def mark_file(self, step: str) -> Path:
        return self.marks / f"{safe_name(step)}.json"

    def steps(self) -> list[str]:
        """Names of all steps that have a mark."""
        return sorted(file.stem for file in self.marks.glob("*.json"))

    def mark(self, step: str) -> Mark | None:
        """Read the mark of a step, None if it is not finished.

        Raises:
            UserError: when the file of the mark is damaged.
        """
        file = self.mark_file(step)
        return read_mark(file) if file.exists() else None

    def finished(self, step: str, depends_on: dict[str, Any]) -> bool:
        """Whether the step is finished, computed from these inputs.

        Raises:
            UserError: when it was computed from others, naming them.
        """
        mark = self.mark(step)
        if mark and mark.key != digest(depends_on):
            changes = [_described(*change) for change in differences(mark.depends_on, depends_on)]
            more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
            raise UserError(
                f"{self.path}: step {step} was computed with {', '.join(changes[:NAMED])}{more}. Restore that, choose "
                f"another folder (--name), or recompute from here: --restart-from {step}"
            )
        return mark is not None

    def whole(self, step: str) -> bool:
        """Whether the step is finished and all its files exist."""
        mark = self.mark(step)
        return mark is not None and all((self.path / name).exists() for name in mark.files)

    def finish(self, step: str, depends_on: dict[str, Any], files: Sequence[Path], **facts: Any) -> None:
        """Mark a step as finished; its files (or folders of files) must be whole."""
        left = sorted(file for path in files for file in (path.rglob("*") if path.is_dir() else [path]))
        digests = {str(file.relative_to(self.path)): store.file_digest(file) for file in left if file.is_file()}
        store.write_json(self.mark_file(step), vars(Mark(digest(depends_on), depends_on, digests, facts)))

    def facts(self, step: str) -> dict[str, Any]:
        return self._finished_mark(step).facts

    def _finished_mark(self, step: str) -> Mark:
        if (mark := self.mark(step)) is None:
            raise UserError(f"{self.path}: step {step} is not finished; give the same command again")
        return mark

    def damage(self, step: str) -> Iterator[str]:
        """Yield a sentence for each file of a finished step that is missing or changed."""
        for name, expected in self._finished_mark(step).files.items():
            file = self.path / name
            if not file.exists():
                yield f"{file} is missing"
            elif store.file_digest(file) != expected:
                yield f"{file} has changed since step {step} wrote it"

    def check(self, step: str) -> None:
        """
        Raises:
            UserError: when a file of a finished step is missing or has changed.
        """
        for problem in self.damage(step):
            raise UserError(f"{problem}: restore it, or delete it to recompute it")

    def forget(self, step: str) -> None:
        self.mark_file(step).unlink(missing_ok=True)

    def forget_all(self) -> None:
        for step in self.steps():
            self.forget(step)


def read_mark(file: Path, read: Callable[[Path], Any] = store.read_json) -> Mark:
    """Read the mark of a finished step from its file.

    Raises:
        UserError: when the file is damaged.
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
        raise UserError(f"{file}: is not a valid step record; delete it to recompute the step")
    return mark


def differences(before: Any, now: Any, name: str = "") -> list[tuple[str, str, str]]:
    """Return (dotted name, value before, value now) for each leaf in which two nested mappings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted(before.keys() | now.keys())
            for difference in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    before, now = (json.dumps(value, ensure_ascii=False, default=str) for value in (before, now))
    return [] if before == now else [(name, _short(before), _short(now))]


def _described(name: str, old: str, new: str) -> str:
    """A difference as people read it; of two digests only that the content is another."""
    if DIGEST.fullmatch(old) and DIGEST.fullmatch(new):
        return f"other {name}"
    return f"{name}={old} (now {new})"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
