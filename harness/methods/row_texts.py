"""Texts and messages in the columns of a data file: checked, or refused by the name of the column."""

import re
from typing import Any

from harness.files import rows

_WRITTEN_CHAT = re.compile(r"""\s*\[\s*\{\s*['"](role|from|content|value)['"]\s*:""")


class Malformed(ValueError):
    """A row in an unknown format."""


def checked_text(value: Any, name: str) -> str:
    """Return the value if it is a text that files can hold: JSON can hold half of a surrogate pair, no file can."""
    if not isinstance(value, str):
        raise Malformed(f'"{name}" must be a text')
    if rows.holds_half_character(value):
        raise Malformed(f'"{name}" holds half a character (a lone surrogate); fix or remove it')
    if _WRITTEN_CHAT.match(value):
        raise Malformed(f'"{name}" is a conversation written as a text: store it as a list, in JSON or Parquet')
    return value


def content_of(value: Any, name: str) -> str | None:
    """The text of a message; several parts that are all texts are joined."""
    if value is None:
        return None
    if isinstance(value, list):
        kinds = {part.get("type") if isinstance(part, dict) else type(part).__name__ for part in value}
        if kinds - {"text"}:
            others = ", ".join(sorted(map(str, kinds - {"text"})))
            raise Malformed(f'"{name}" has a message with parts of the type {others}; only text can be read')
        return "".join(checked_text(part.get("text"), name) for part in value)
    return checked_text(value, name)


def check_calls(calls: Any, name: str) -> None:
    functions = [call.get("function", call) if isinstance(call, dict) else None for call in calls or ()]
    if not isinstance(calls, list) or not all(
        isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions
    ):
        raise Malformed(f'"{name}" has "tool_calls" that are not a list of functions with a name')


def without_null(value: Any) -> Any:
    """Nested data without the null values that tables fill absent fields with."""
    if isinstance(value, dict):
        return {key: without_null(each) for key, each in value.items() if each is not None}
    return [without_null(each) for each in value] if isinstance(value, list) else value
