"""A table as markdown, aligned so that it also reads well as plain text."""

import re
from collections.abc import Sequence

from harness.tables.layout import DIFFERENCES, Entry, TextGrid, one_line, sheet
from harness.tables.schema import Table

_MARKUP = re.compile(r"\\|\||<(?=[A-Za-z/!?])|(?<=\])\(")


def to_markdown(table: Table) -> str:
    """The scores, the differences to the baseline and the notes."""
    shown = sheet(table)
    parts = [f"## {escape(shown.title)}"] * bool(shown.title) + [grid(shown.scores)]
    if shown.differences:
        parts += [DIFFERENCES, grid(shown.differences)]
    parts.append(bullets(shown.notes))
    if shown.command:
        parts.append(f"Made by {code(shown.command)}")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """The text on one line, escaped so that it cannot end a table cell, begin HTML or make a link."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """A code span, with more backticks than the text has in a row."""
    text = one_line(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks, space = "`" * (longest + 1), " " * (longest > 0)
    return f"{marks}{space}{text}{space}{marks}"


def bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {escape(text)}" for text in texts)


def lines(rows: Sequence[Sequence[str]]) -> str:
    """An aligned table of escaped texts; the first row has the headings."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in ruled)


def entry(shown: Entry) -> str:
    strong, rest = escape(shown.text[: shown.strong]), shown.text[shown.strong :]
    return f"**{strong}** {escape(rest)}".rstrip() if strong else escape(shown.text)


def grid(grid: TextGrid) -> str:
    return lines([[escape(text) for text in grid.head], *([entry(each) for each in row] for row in grid.rows)])
