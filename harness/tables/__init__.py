"""Render a table: markdown for people, LaTeX for papers, HTML for pages, CSV and JSON for programs.

Names and texts of files, models and judges are data; every format escapes them.
"""

from harness.errors import unknown_name
from harness.tables.csv import to_csv
from harness.tables.html import to_html
from harness.tables.json import dumps, to_json
from harness.tables.latex import to_latex
from harness.tables.markdown import to_markdown
from harness.tables.schema import Table

__all__ = ["FORMATS", "SUFFIXES", "render", "to_csv", "to_html", "to_json", "to_latex", "to_markdown"]

FORMATS = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv, "json": dumps, "html": to_html}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}


def render(table: Table, form: str) -> str:
    """The table as text that ends with a line break.

    Raises:
        UserError: when the format is not known.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    return FORMATS[form](table)
