"""Options in dataclasses, read from YAML and checked field by field."""

import dataclasses
import os
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from harness.errors import UserError, unknown_name
from harness.files import plain_yaml, rows

TEXTS, OPTIONS, FIELDS = tuple[str, ...], dict[str, dict[str, Any]], dict[str, Any]
NAMES = {
    TEXTS: "a list of texts, at least one",
    OPTIONS: "mappings of options by the name of a method or benchmark",
    FIELDS: "a mapping of fields to values",
}
PROSE = ("system_prompt", "thought_marks")  # texts that are in no name of a file
LONGEST_NAME = 200  # bytes; file systems take 255, and our own files add to it


def build(kind: type, values: dict[str, Any], what: str) -> Any:
    """A frozen dataclass of plain values from a mapping, with every value checked against the field's type.

    Raises:
        UserError: for an unknown name (the nearest is suggested), a value of another type, or a text that no file or
            folder could have as its name.
    """
    fields = {each.name: each for each in dataclasses.fields(kind)}
    checked = {}
    for name, value in values.items():
        if name not in fields:
            raise unknown_name(what, name, fields)
        checked[name] = _convert(value, fields[name].type, f"{what} {name!r}")
        for text in checked[name] if isinstance(checked[name], tuple) else [checked[name]]:
            if isinstance(text, str):
                _check_text(text, f"{what} {name!r}", is_name=name not in PROSE)
    return kind(**checked)


def _convert(value: Any, kind: Any, what: str) -> Any:
    wanted = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    for each in wanted:
        if each is type(None):
            if value is None:
                return None
        elif (converted := _as(each, value)) is not None:
            return converted
    names = " or ".join(NAMES.get(each, getattr(each, "__name__", str(each))) for each in wanted)
    raise UserError(f"{what} must be {names}, not {value!r:.200}")


def _as(kind: Any, value: Any) -> Any:
    """The value as what a field of this kind holds, None where it is none."""
    if kind == TEXTS:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        whole = isinstance(parts, list | tuple) and parts and all(isinstance(part, str) for part in parts)
        return tuple(parts) if whole else None
    if kind == OPTIONS:
        whole = isinstance(value, dict) and all(isinstance(changes, dict) for changes in value.values())
        return value if whole else None
    if kind == FIELDS:
        return value if isinstance(value, dict) and all(isinstance(name, str) for name in value) else None
    if isinstance(value, bool) and kind is not bool:
        return None
    if kind is float and isinstance(value, int | float | str):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as a text
        except (ValueError, OverflowError):
            return None
        return number if isfinite(number) else None
    return value if isinstance(value, kind) else None


def load(path: Path) -> dict:
    """The mapping of a YAML file of options.

    Raises:
        UserError: when the file is absent or no mapping (with its line).
    """
    if not os.path.exists(path):  # False too for a name that no file can have
        raise UserError(f"no configuration file at {path}")
    values = plain_yaml.parse(rows.read_text(path), str(path))
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: must hold a mapping of options to values")
    return values or {}


def _check_text(text: str, what: str, is_name: bool) -> None:
    """Texts of options are names of files and folders, or parts of them."""
    if rows.holds_half_character(text) or "\0" in text:
        raise UserError(f"{what} holds half a character or a NUL: {text!r:.80}")
    if is_name and max(len(part.encode()) for part in text.split("/")) > LONGEST_NAME:
        raise UserError(f"{what} is longer than the {LONGEST_NAME} bytes of a name: {text!r:.80}")
