"""What commands print: JSON for machines, short tables for people. Names and texts of files are data, never markup."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import UserError

_UNSEEN = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")  # controls, turns of direction
PLAIN_WIDTH = 200  # characters a line where no terminal says how wide it is

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for machines.")]


def check_file(file: Path | None, example: str) -> None:
    """Before work whose result is written to a file; `example` is a name for it.

    Raises:
        UserError: when a folder is in its place.
    """
    if file is not None and file.is_dir():
        raise UserError(f"{file} is a folder: name the file to write, such as {file / example}")


def print_json(value: Any) -> None:
    """As UTF-8; half of a surrogate pair, which UTF-8 has not, and what a terminal would obey stay JSON's escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    text = _UNSEEN.sub(lambda mark: f"\\u{ord(mark.group()):04x}", text)
    print(text.encode("utf-8", "backslashreplace").decode())


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table; numbers to the right, None as a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=None if title is None else Text(shown(title)))
    for place, column in enumerate(columns):
        numeric = all(row[place] is None or isinstance(row[place], int | float) for row in rows)
        table.add_column(Text(shown(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_facts(facts: Mapping[str, Any], indent: int = 0) -> None:
    """Name and value, a line each; mappings below their name."""
    width = max((len(shown(name)) for name, value in facts.items() if not isinstance(value, Mapping)), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            print(" " * indent + f"{shown(name)}:")
            print_facts(value, indent + 2)
        else:
            print(" " * indent + f"{shown(name):{width}}  {shown(value)}")


def shown(value: Any) -> str:
    """A value as people read it: at most four decimals, a list as an interval."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(shown, value)) + "]"
    return "".join(mark if mark.isprintable() else " " for mark in str(value))
