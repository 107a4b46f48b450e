"""Output of commands: JSON for machines, short tables for people. Names and texts from files are never markup."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import UserError

_UNSEEN = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")  # controls, turns of direction
PLAIN_WIDTH = 200  # characters per line where no terminal has a width

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def check_file(file: Path | None, example: str) -> None:
    """Check where a result will be written, before the work; `example` is a name for the file.

    Raises:
        UserError: when there is a folder in its place.
    """
    if file is not None and file.is_dir():
        raise UserError(f"{file} is a folder: name the file to write, such as {file / example}")


def print_json(value: Any) -> None:
    """Print UTF-8 JSON; half of a surrogate pair, and characters that terminals obey, stay JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    text = _UNSEEN.sub(lambda mark: f"\\u{ord(mark.group()):04x}", text)
    print(text.encode("utf-8", "backslashreplace").decode())


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table: numbers to the right, None as a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=None if title is None else Text(readable(title)))
    for place, column in enumerate(columns):
        numeric = all(row[place] is None or isinstance(row[place], int | float) for row in rows)
        table.add_column(Text(readable(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(readable(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_facts(facts: Mapping[str, Any], indent: int = 0) -> None:
    """Print name and value, one per line, and mappings indented below their name."""
    width = max((len(readable(name)) for name, value in facts.items() if not isinstance(value, Mapping)), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            print(" " * indent + f"{readable(name)}:")
            print_facts(value, indent + 2)
        else:
            print(" " * indent + f"{readable(name):{width}}  {readable(value)}")


def readable(value: Any) -> str:
    """Return a value as people read it: at most four decimals, a list as an interval, no control characters."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(readable, value)) + "]"
    return "".join(mark if mark.isprintable() else " " for mark in str(value))
