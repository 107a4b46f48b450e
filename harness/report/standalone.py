"""Figures as SVG files, for papers and documents: of one run, or of several with different budgets."""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from math import isnan
from typing import Any

from harness.errors import UserError
from harness.report.along import checkpoints
from harness.report.drawing import MUTED, WIDTH, Figure, Series, draw, scales, size_of, values
from harness.report.figures import NUMBERS
from harness.report.run import ReportedRun
from harness.report.training import pair_quality
from harness.report.wording import interval, number, power
from harness.tables.layout import digits_of
from harness.tables.schema import Cell, Column

STYLE = files("harness.report") / "html" / "page.css"
COLOR = re.compile(r"(--[\w-]+): light-dark\((#\w+), #\w+\)")
PANEL = WIDTH - 150
KEY_LINE, KEY_LETTER = 20, 7.2  # pixels per line of the key, and per letter
APART = 1.02  # factor between neighbouring methods with the same cap


def pairs(runs: Sequence[ReportedRun]) -> Figure:
    """Accuracy of the pairs against the probability of the chosen response, as in figure 3 of the SSO paper.

    Raises:
        UserError: when there is nothing to draw.
    """
    if len(runs) > 1:
        raise UserError(f"this figure shows one run: give one, not {len(runs)}")
    (run,) = runs
    figure = pair_quality(run, _series(runs))
    if figure is None:
        raise UserError(f"{run.path}: no stage has both the accuracy and the probability of its pairs")
    return figure


def budgets(runs: Sequence[ReportedRun]) -> Figure:
    """Scores of the same methods under several budgets, with their 95 % intervals; one panel per benchmark.

    Raises:
        UserError: when a run has no cap in FLOPs, or different benchmarks than the first.
    """
    series, columns = _series(runs), runs[0].table.benchmarks
    points: list[dict[str, Any]] = []
    table: list[tuple[str, ...]] = []
    caps: set[float] = set()
    places = {each.name: each.index - len(series) / 2 for each in series}
    for run in runs:
        if [each.name for each in run.table.benchmarks] != [each.name for each in columns]:
            raise UserError(f"{run.path} has different benchmarks than {runs[0].path}: give runs with the same ones")
        for row in run.table.rows:
            cap = row.spent.cap_flops
            if row.spent.flops and cap is None:
                raise UserError(f"{run.path}: {row.method} has no cap in FLOPs: give runs with a budget in FLOPs")
            for column in columns:
                cell = row.cells[column.name]
                digits, place = digits_of(column.metric), {"method": row.method, "benchmark": column.title}
                if row.spent.flops and cap is not None:
                    points.append(place | {"flops": cap * APART ** places[row.method]} | _ends(cell))
                    caps.add(cap)
                elif run is runs[0]:
                    points.append(place | {"base": cell.value})
                shown = (number(cell.value, digits), interval(cell.low, cell.high, digits))
                spent = power(cap) if row.spent.flops and cap is not None else "-"
                table.append((row.method, spent, column.title, *shown))
    panels = [_panel(column, points, sorted(caps), series) for column in columns]
    spec = {
        "vconcat": [{"hconcat": panels[place : place + 2], "spacing": 40} for place in range(0, len(panels), 2)],
        "spacing": 28,
        "resolve": {"scale": {"color": "shared", "shape": "shared"}},
    }
    return Figure(
        "Scores under several budgets",
        draw(spec),
        "Mean score of each method with its 95 % interval against the cap in FLOPs (logarithmic; methods a little "
        "apart). The line across is the untrained model.",
        ("method", "cap in FLOPs", "benchmark", "mean", "95 % interval"),
        tuple(table),
    )


FIGURES = {"pairs": pairs, "budgets": budgets, "checkpoints": checkpoints}


def as_file(figure: Figure, runs: Sequence[ReportedRun], command: str) -> str:
    """An SVG document on white with a key, in the light colours of the page, because few programs support both.

    Args:
        command: the command that makes this file; the file names it.
    """
    colors = dict(COLOR.findall(STYLE.read_text("utf-8")))
    width, height = size_of(figure.svg)
    key, below = _key([each for each in _series(runs) if each.color in figure.svg], width, height)
    inner = re.sub(r"^<svg [^>]*>|</svg>\s*$", "", figure.svg)
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" role="img" '
        f'viewBox="0 0 {width:g} {below:g}" width="{width:g}" height="{below:g}">'
        f"<title>{escape(figure.title)}</title><desc>{escape(f'{figure.description} Made by: {command}')}</desc>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{inner}{key}</svg>\n'
    )
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colors.get(found[1], found[0]), drawn)


def _key(series: Sequence[Series], width: float, top: float) -> tuple[str, float]:
    """Marks and names in lines below a drawing that ends at `top`, and where the lines end."""
    parts, x, y = [], 16.0, top + KEY_LINE
    for each in series:
        wide = 26 + KEY_LETTER * len(each.name)
        if x > 16 and x + wide > width:
            x, y = 16.0, y + KEY_LINE
        parts.append(
            f'<g transform="translate({x:g},{y:g})"><path d="{each.outline}" fill="{each.color}"/>'
            f'<text x="9" y="4" font-size="12.5" fill="var(--text)">{escape(each.name)}</text></g>'
        )
        x += wide
    return "".join(parts), y + KEY_LINE


def _series(runs: Sequence[ReportedRun]) -> list[Series]:
    names = dict.fromkeys(name for run in runs for name in run.methods)
    return [Series(name, index) for index, name in enumerate(names)]


def _ends(cell: Cell) -> dict[str, float]:
    low, high = (cell.value if isnan(end) else end for end in (cell.low, cell.high))
    return {"value": cell.value, "low": low, "high": high}


def _panel(
    column: Column, points: list[dict[str, Any]], caps: Sequence[float], series: Sequence[Series]
) -> dict[str, Any]:
    scale = scales(series)
    rows = [each for each in points if each["benchmark"] == column.title]
    trained = [each for each in rows if "flops" in each]
    x = {
        "field": "flops",
        "type": "quantitative",
        "title": "cap, FLOPs",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"values": list(caps), "format": ".2~e", "labelFlush": False},
    }
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}, "axis": NUMBERS}
    return {
        "width": PANEL,
        "height": 200,
        "title": {
            "text": f"{column.title}, {column.metric}",
            "anchor": "start",
            "color": "var(--text)",
            "fontSize": 13,
        },
        "data": values(trained),
        "encoding": {"x": x, "color": scale["color"]},
        "layer": [
            {
                "mark": {"type": "rule", "color": MUTED, "strokeDash": [4, 3]},
                "data": values([each for each in rows if "base" in each]),
                "encoding": {"x": None, "y": {**y, "field": "base"}, "color": None},
            },
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"y": y}},
            {
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 56},
                "encoding": {"y": y, "shape": scale["shape"]},
            },
        ],
    }
