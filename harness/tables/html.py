"""A table as one plain HTML page: no script, nothing loaded, accessible to screen readers, light and dark."""

from html import escape as escape_html

from harness.tables.layout import DIFFERENCES, Entry, TextGrid, one_line, sheet
from harness.tables.schema import Table

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 0 0 1.5rem; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap; font-variant-numeric: tabular-nums; }
thead th { border-block: 1px solid; white-space: normal; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 1px solid; }
tbody th { font-weight: 400; }
li { max-width: 60rem; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(table: Table) -> str:
    title = escape(sheet(table).title or "Scores")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{title}</h1>",
        to_fragment(table),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def to_fragment(table: Table) -> str:
    """The scores, the differences and the notes, for a page with a style of its own, such as a notebook."""
    shown = sheet(table)
    parts = [_grid(shown.scores, "Scores")]
    if shown.differences:
        parts.append(_grid(shown.differences, DIFFERENCES.removesuffix(":")))
    parts += ["<ul>", *(f"<li>{escape(note)}</li>" for note in shown.notes), "</ul>"]
    if shown.command:
        parts.append(f"<p>Made by <code>{escape(shown.command)}</code></p>")
    return "\n".join(parts)


def escape(text: str) -> str:
    return escape_html(one_line(text))


def _grid(grid: TextGrid, caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in grid.head)
    body = (
        f'<tr><th scope="row">{_entry(row[0])}</th>{"".join(f"<td>{_entry(each)}</td>" for each in row[1:])}</tr>'
        for row in grid.rows
    )
    # tabindex: scrollable by keyboard
    return "\n".join(
        [
            f'<div role="region" aria-label="{escape(caption)}" tabindex="0">',
            f"<table><caption>{escape(caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody></table></div>",
        ]
    )


def _entry(entry: Entry) -> str:
    strong, rest = escape(entry.text[: entry.strong]), entry.text[entry.strong :]
    return f"<strong>{strong}</strong> {escape(rest)}".rstrip() if strong else escape(entry.text)
