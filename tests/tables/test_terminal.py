"""The table at a terminal: three tables that fit its width, with every number of the markdown."""

import io
import json
import re

import pytest
from paths import ROOT
from rich.console import Console

from harness.tables.json import from_json
from harness.tables.markdown import to_markdown
from harness.tables.terminal import print_table

FILE = ROOT / "results" / "testbed" / "table.json"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_and_holds_every_number(width):
    table = from_json(json.loads(FILE.read_text()), str(FILE))
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for row in table.rows:
        for column in table.benchmarks:
            cell, digits = row.cells[column.name], 1 if "%" in column.metric else 2
            assert f"{cell.value:.{digits}f}" in text and f"[{cell.low:.{digits}f}, {cell.high:.{digits}f}]" in text
            if cell.difference:
                assert f"{cell.difference.value:+.{digits}f}" in text
    p_values = [set(re.findall(r"p <? ?[0-9.e-]*[0-9]", each)) for each in (to_markdown(table), text)]
    assert p_values[0] <= p_values[1] and len(p_values[0]) > 4


def test_names_are_no_markup():
    table = json.loads(FILE.read_text())
    table["rows"][1]["method"] = "[red]x\x1b[31m"
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    print_table(from_json(table, "table.json"), console)
    text = console.file.getvalue()
    assert "[red]x" in text and "x\x1b[31m" not in text
