"""Score against FLOPs along the way: the checkpoints of each method, with the Pareto front."""

from collections.abc import Sequence
from math import isnan
from typing import Any

from harness.errors import UserError
from harness.report.drawing import MUTED, TEXT, WIDTH, Figure, Series, apart, draw, scales, short, values
from harness.report.figures import LABELS, NUMBERS, domain, exponent, labels_beside
from harness.report.run import ReportedRun
from harness.report.wording import interval, number, power, ten
from harness.results.along import Along, Point, along
from harness.tables.layout import digits_of
from harness.tables.schema import Column

HEIGHT = 220
PANEL = WIDTH - 150
ABOUT = (
    "a mark per method and checkpoint, with its 95 % interval; rings and the dashed line: the Pareto front. Nothing is "
    "tested here."
)


def of_column(found: Along, column: Column, series: Sequence[Series]) -> Figure | None:
    """The scores of one benchmark along the way; None where none was trained."""
    points = _points(found, column)
    if not any(point.flops for point in points):
        return None
    ends = {point.method: point.scores[column.name] for point in points}  # the last of each method
    low, high = domain([end for each in _rows(points, column, 0) for end in (each["low"], each["high"])])
    wished = [HEIGHT * (high - end.value) / (high - low) for end in ends.values() if end]
    labels = [
        {"method": method, "name": short(method), "place": place}
        for method, place in zip(ends, apart(wished, 16, 4, HEIGHT), strict=True)
    ]
    spec = _panel(points, column, series, WIDTH - 52 - LABELS)
    spec["layer"] += labels_beside(labels, scales(series))
    return Figure(
        f"{column.title}, {column.metric}",
        draw(spec),
        f"{column.title}, {column.metric}, against the FLOPs that training had spent: {ABOUT}",
        ("method", "at", "FLOPs", "mean", "95 % interval", "Pareto front"),
        tuple(_texts(point, column) for point in points),
    )


def checkpoints(runs: Sequence[ReportedRun]) -> Figure:
    """Scores of one run along the way, one panel per benchmark.

    Raises:
        UserError: for several runs, or one without checkpoints.
    """
    if len(runs) > 1:
        raise UserError(f"this figure shows one run: give one, not {len(runs)}")
    (run,) = runs
    found, series = along(run.stored), [Series(name, index) for index, name in enumerate(run.methods)]
    panels, table = [], []
    for column in run.table.benchmarks:
        points = _points(found, column)
        title = {"text": f"{column.title}, {column.metric}", "anchor": "start", "color": TEXT, "fontSize": 13}
        panels.append(_panel(points, column, series, PANEL) | {"title": title})
        table += [(column.title, *_texts(point, column)) for point in points]
    rows = [{"hconcat": panels[place : place + 2], "spacing": 40} for place in range(0, len(panels), 2)]
    spec = {"vconcat": rows, "spacing": 28, "resolve": {"scale": {"color": "shared", "shape": "shared"}}}
    return Figure(
        "Scores along the way",
        draw(spec),
        f"Mean score against the FLOPs that training had spent: {ABOUT}",
        ("benchmark", "method", "at", "FLOPs", "mean", "95 % interval", "Pareto front"),
        tuple(table),
    )


def _points(found: Along, column: Column) -> list[Point]:
    return [point for point in found.points if point.scores.get(column.name)]


def _texts(point: Point, column: Column) -> tuple[str, ...]:
    score, digits = point.scores[column.name], digits_of(column.metric)
    assert score, "_points leaves out others"
    at = "not trained" if not point.fraction else "end" if point.fraction == 1 else f"{point.fraction:g}"
    shown = (number(score.value, digits), interval(score.low, score.high, digits))
    return (point.method, at, power(point.flops), *shown, "yes" if column.name in point.front else "")


def _rows(points: Sequence[Point], column: Column, unit: int) -> list[dict[str, Any]]:
    rows = []
    for point in points:
        method, at, flops, *score, _ = _texts(point, column)
        found = point.scores[column.name]
        assert found, "_points leaves out others"
        low, high = (found.value if isnan(end) else end for end in (found.low, found.high))
        rows.append(
            {"method": method, "flops": point.flops / 10**unit, "value": found.value, "low": low, "high": high}
            | {"front": column.name in point.front, "tooltip": f"{method}, {at}: {' '.join(score)} at {flops} FLOPs"}
        )
    return rows


def _panel(points: Sequence[Point], column: Column, series: Sequence[Series], width: int) -> dict[str, Any]:
    unit = exponent([point.flops for point in points])
    rows, scale = _rows(points, column, unit), scales(series)
    front = values([row for row in rows if row["front"]])
    low, high = domain([end for row in rows for end in (row["low"], row["high"])])
    x = {
        "field": "flops",
        "type": "quantitative",
        "title": f"{ten(unit)} FLOPs spent in training, its data included",
        "scale": {"domain": [0, 1.02 * max(row["flops"] for row in rows)], "nice": False},
        "axis": {"tickCount": 4, "labelFlush": True},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [low, high], "nice": False},
        "axis": NUMBERS,
    }
    line = {"type": "line", "interpolate": "step-after", "stroke": MUTED, "strokeDash": [4, 3], "strokeWidth": 1.5}
    return {
        "width": width,
        "height": HEIGHT,
        "data": values(rows),
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": line, "data": front},
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"color": scale["color"]}},
            {
                "mark": {"type": "rule", "strokeWidth": 1},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": scale["color"]},
            },
            {
                "mark": {"type": "point", "filled": False, "size": 170, "stroke": TEXT, "aria": False},
                "data": front,
            },
            {
                "mark": {"type": "point", "size": 40},
                "encoding": {"color": scale["color"], "shape": scale["shape"], "description": {"field": "tooltip"}},
            },
        ],
    }
