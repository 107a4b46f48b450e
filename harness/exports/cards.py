"""Cards (README.md) of exported data sets and models, which say where they come from.

Texts of models, data and users are written as code, and in front matter as YAML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

README = "README.md"


def card(front: Mapping[str, Any], *parts: str) -> str:
    """A README.md of front matter and the parts of its text."""
    matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    return "\n\n".join([f"---\n{matter}---", *parts]) + "\n"


def table(head: Sequence[str], rows: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    lines = [f"| {' | '.join(head)} |", "|---|---|"]
    return "\n".join(lines + [f"| {code(name)} | {code(value)} |" for name, value in rows.items()])


class Prose(str):
    """A text of this package, which needs no quoting."""


def code(value: Any) -> str:
    """A value as code on one line, safe in a table; None as a dash."""
    if value is None or isinstance(value, Prose):
        return value or "–"
    text = "".join(mark if mark.isprintable() else " " for mark in str(value)).replace("`", "'")
    return f"`{' '.join(text.split()).replace('|', chr(92) + '|') or ' '}`"
