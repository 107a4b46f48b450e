"""Which arm of a run is exported, where to, and the card (README.md) that says where it comes from.

Texts of models, data and users stand in cards as code, and in front matter as YAML writes texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

README = "README.md"


def card(front: Mapping[str, Any], *parts: str) -> str:
    """A README.md: front matter and the parts of its text."""
    matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    return "\n\n".join([f"---\n{matter}---", *parts]) + "\n"


def table(head: Sequence[str], rows: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    lines = [f"| {' | '.join(head)} |", "|---|---|"]
    return "\n".join(lines + [f"| {code(name)} | {code(value)} |" for name, value in rows.items()])


class Prose(str):
    """A text of ours, which needs no quoting."""


def code(value: Any) -> str:
    """A value in one line as code, in a table too: no markup in it is any. None is a dash."""
    if value is None or isinstance(value, Prose):
        return value or "–"
    text = "".join(mark if mark.isprintable() else " " for mark in str(value)).replace("`", "'")
    return f"`{' '.join(text.split()).replace('|', chr(92) + '|') or ' '}`"


COUNTS = ("calls", "prompt_tokens", "generated_tokens", "trained_tokens", "updates")
