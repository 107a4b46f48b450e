"""The figures of the page: differences to the baseline, score against FLOPs, budget by role, parts of a benchmark."""

from collections.abc import Mapping, Sequence
from math import floor, isnan, log10
from statistics import fmean
from typing import Any

from harness.budget import Spending
from harness.report.drawing import (
    MUTED,
    SHORT_LABELS,
    SIZE,
    TEXT,
    WIDTH,
    Figure,
    Series,
    apart,
    draw,
    scales,
    short,
    values,
)
from harness.report.run import ReportedRun
from harness.report.wording import interval, number, p_value, power, signed, ten
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.layout import digits_of
from harness.tables.schema import Column

LABELS = 112  # pixels for names
NAMES = {"labelColor": TEXT, "minExtent": LABELS, "maxExtent": LABELS, "labelExpr": SHORT_LABELS}
NUMBERS = {"grid": True, "tickCount": 5, "minExtent": 44, "maxExtent": 44}
ROW = 30  # pixels of a row in a chart of rows


def forest(run: ReportedRun, column: Column, series: Sequence[Series]) -> Figure | None:
    """Paired differences to the baseline with their 95 % intervals; None where there are none."""
    digits, rows, table = digits_of(column.metric), [], []
    for row in run.table.rows:
        cell = row.cells[column.name]
        if cell.difference is None:
            continue
        found, sure = cell.difference, cell.p_holm is not None and cell.p_holm < SIGNIFICANT
        low, high = (found.value if isnan(end) else end for end in (found.low, found.high))
        shown = f"{signed(found.value, digits)} {interval(found.low, found.high, digits, sign=True)}"
        tooltip = f"{row.method} minus {run.table.baseline}: {shown}"
        rows.append(
            {"method": row.method, "value": found.value, "low": low, "high": high, "sure": sure}
            | {"label": signed(found.value, digits), "p": p_value(cell.p_holm)}
            | {"tooltip": f"{tooltip}, {p_value(cell.p_holm)} after correction"}
        )
        table.append(
            (
                row.method,
                signed(found.value, digits),
                interval(found.low, found.high, digits, True),
                p_value(found.p_value),
                p_value(cell.p_holm),
            )
        )
    if not rows:
        return None
    scale = scales(series)
    filled = {"condition": {"test": "datum.sure", **scale["color"]}, "value": "var(--panel)"}
    x = {"field": "value", "type": "quantitative", "title": f"difference to {run.table.baseline}, {column.metric}"}
    y = {"field": "method", "type": "nominal", "title": None, "sort": None, "axis": NAMES}
    text = {"type": "text", "align": "left", "x": {"expr": "width + 12"}}
    spec = {
        "width": WIDTH - LABELS - 142,
        "height": {"step": ROW},
        "data": values(rows),
        "encoding": {"y": y, "x": x},
        "layer": [
            {
                "mark": {"type": "rule", "color": MUTED, "aria": False},
                "data": values([{"value": 0}]),
                "encoding": {"y": None},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": {**x, "field": "low"},
                    "x2": {"field": "high"},
                    "color": scale["color"],
                    "description": {"field": "tooltip"},
                },
            },
            {
                "mark": {"type": "point", "strokeWidth": 2, "size": 70},
                "encoding": {
                    "fill": filled,
                    "stroke": scale["color"],
                    "shape": scale["shape"],
                    "description": {"field": "tooltip"},
                },
            },
            {"mark": {**text, "fontWeight": "bold"}, "encoding": {"text": {"field": "label"}, "x": None}},
            {
                "mark": {**text, "x": {"expr": "width + 62"}, "fill": MUTED},
                "encoding": {"text": {"field": "p"}, "x": None},
            },
        ],
    }
    return Figure(
        column.title,
        draw(spec),
        f"{column.title}: difference of each method to {run.table.baseline} with its 95 % interval. Filled marks: "
        "significant after correction. p: after correction.",
        ("method", "difference", "95 % interval", "p", "p, corrected"),
        tuple(table),
    )


def scaling(run: ReportedRun, column: Column, series: Sequence[Series]) -> Figure | None:
    """Score against FLOPs spent in training, a point per run. A line would look like a learning curve."""
    digits, points, table = digits_of(column.metric), [], []
    means: dict[str, tuple[float, float]] = {}
    unit = exponent([row.spent.flops for row in run.table.rows])
    for row in run.table.rows:
        cell = row.cells[column.name]
        if not cell.by_seed:
            continue
        means[row.method] = (row.spent.flops / 10**unit, cell.value)
        for seed, value in cell.by_seed.items():
            flops = run.ledgers[row.method][seed].flops
            tooltip = f"{row.method}, seed {seed}: {number(value, digits)} at {power(flops)} FLOPs"
            points.append({"method": row.method, "flops": flops / 10**unit, "value": value, "tooltip": tooltip})
        table.append(
            (row.method, power(row.spent.flops), number(cell.value, digits), interval(cell.low, cell.high, digits))
        )
    if not any(flops for flops, _ in means.values()):
        return None
    caps = [row.spent.cap_flops / 10**unit for row in run.table.rows if row.spent.cap_flops]
    height, most = 220, max([*(point["flops"] for point in points), *caps])
    low, high = domain([point["value"] for point in points])
    wished = [height * (high - value) / (high - low) for _, value in means.values()]
    labels = [
        {"method": method, "name": short(method), "place": place}
        for (method, _), place in zip(means.items(), apart(wished, 16, 4, height), strict=True)
    ]
    scale = scales(series)
    x = {
        "field": "flops",
        "type": "quantitative",
        "title": f"{ten(unit)} FLOPs spent in training, its data included",
        "scale": {"domain": [0, most], "nice": False},
        "axis": {"tickCount": 4, "labelFlush": True},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [low, high], "nice": False},
        "axis": NUMBERS,
    }
    spec = {
        "width": WIDTH - 52 - LABELS,
        "height": height,
        "data": values(points),
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "mark": {"type": "point", "size": 40},
                "encoding": {"color": scale["color"], "shape": scale["shape"], "description": {"field": "tooltip"}},
            },
            *labels_beside(labels, scale),
        ],
    }
    return Figure(
        f"{column.title}, {column.metric}",
        draw(spec),
        f"{column.title}, {column.metric}, against the FLOPs that training spent: a mark per run.",
        ("method", "FLOPs", "mean", "95 % interval"),
        tuple(table),
    )


def labels_beside(labels: Sequence[dict[str, Any]], scale: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Names to the right of a chart, "place" pixels from its top, each after its mark."""
    y = {"field": "place", "type": "quantitative", "scale": None, "axis": None}
    return [
        {
            "mark": {"type": "point", "size": 40, "x": {"expr": "width + 12"}},
            "data": values(labels),
            "encoding": {"y": y, "x": None, "color": scale["color"], "shape": scale["shape"]},
        },
        {
            "mark": {"type": "text", "align": "left", "baseline": "middle", "x": {"expr": "width + 21"}},
            "data": values(labels),
            "encoding": {"y": y, "x": None, "text": {"field": "name"}},
        },
    ]


def exponent(numbers: Sequence[float]) -> int:
    """The exponent of the power of ten of the largest number."""
    return floor(log10(max(numbers))) if max(numbers, default=0) else 0


def domain(numbers: Sequence[float]) -> tuple[float, float]:
    """The range of numbers with a margin."""
    margin = 0.08 * (max(numbers) - min(numbers)) or 1.0
    return min(numbers) - margin, max(numbers) + margin


def budget(run: ReportedRun) -> Figure | None:
    """FLOPs by role, the mean over the runs of each method."""
    rows, table = [], []
    shares = {
        method: {
            role: fmean(ledger.roles.get(role, Spending()).flops for ledger in by_seed.values())
            for role in dict.fromkeys(role for ledger in by_seed.values() for role in ledger.roles)
        }
        for method, by_seed in run.ledgers.items()
    }
    roles = list(dict.fromkeys(role for by_role in shares.values() for role in by_role))
    roles.sort(key=lambda role: role == "train")
    unit = exponent([sum(by_role.values()) for by_role in shares.values()])
    for method, by_role in shares.items():
        if not by_role:
            continue
        for place, role in enumerate(roles):
            flops = by_role.get(role, 0.0)
            tooltip = f"{method}, {role}: {power(flops)} FLOPs"
            rows.append({"method": method, "role": role, "flops": flops / 10**unit, "place": place, "tooltip": tooltip})
        wasted = fmean(ledger.total.wasted_flops for ledger in run.ledgers[method].values())
        spent = (*(by_role.get(role, 0.0) for role in roles), sum(by_role.values()), wasted)
        table.append((method, *map(power, spent)))
    if not rows:
        return None
    colors = [f"var(--role-{place % 6})" for place in range(len(roles))]
    spec = {
        "width": WIDTH - LABELS - 16,
        "height": {"step": ROW},
        "data": values(rows),
        "mark": {"type": "bar", "height": 16, "stroke": "var(--panel)", "strokeWidth": 1},
        "encoding": {
            "y": {"field": "method", "type": "nominal", "title": None, "sort": None, "axis": NAMES},
            "x": {
                "field": "flops",
                "type": "quantitative",
                "title": f"{ten(unit)} FLOPs per run, mean over seeds",
                "axis": {"tickCount": 4},
            },
            "order": {"field": "place"},
            "color": {
                "field": "role",
                "type": "nominal",
                "scale": {"domain": roles, "range": colors},
                "legend": {
                    "orient": "top",
                    "title": None,
                    "labelColor": TEXT,
                    "labelFontSize": SIZE,
                    "aria": False,
                    "symbolType": "square",
                },
            },
            "description": {"field": "tooltip"},
        },
    }
    return Figure(
        "Budget by role",
        draw(spec),
        "What the FLOPs of a run were spent on, mean over the seeds of a method. Wasted, not part of the cap: padding, "
        "and finished sequences that wait for their batch.",
        ("method", *roles, "all", "wasted"),
        tuple(table),
    )


def parts(
    column: Column, how: str, found: Mapping[str, Mapping[str, float]], series: Sequence[Series], ordered: bool = False
) -> Figure | None:
    """Means of parts of a benchmark (sections, categories, levels), a mark per method.

    Args:
        how: the kind of parts, such as "by section".
        found: part -> method -> mean over seeds.
        ordered: whether the parts are steps of a scale, such as levels; a line then joins them.
    """
    if not found:
        return None
    digits = digits_of(column.metric)
    rows = [
        {"part": part, "method": method, "value": value, "tooltip": f"{method}, {part}: {number(value, digits)}"}
        for part, by_method in found.items()
        for method, value in by_method.items()
    ]
    draws = _steps if ordered else _dots
    methods = [each.name for each in series if any(each.name in by_method for by_method in found.values())]
    return Figure(
        f"{how}, {column.metric}",
        draw(draws(rows, list(found), series)),
        f"{column.title} {how}: {column.metric}, mean over seeds, per method.",
        ("", *methods),
        tuple(
            (part, *(number(by_method.get(method), digits) for method in methods)) for part, by_method in found.items()
        ),
    )


def _dots(rows: list[dict[str, Any]], names: list[str], series: Sequence[Series]) -> dict[str, Any]:
    scale = scales(series)
    y = {
        "field": "part",
        "type": "nominal",
        "title": None,
        "sort": None,
        "axis": {**NAMES, "grid": True, "tickBand": "center"},
    }
    x = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"zero": False, "nice": False, "padding": 10},
        "axis": {"grid": False, "tickCount": 5},
    }
    return {
        "width": WIDTH - LABELS - 16,
        "height": {"step": 30},
        "data": values(rows),
        "mark": {"type": "point", "size": 56, "stroke": "var(--panel)", "strokeWidth": 0.7},
        "encoding": {
            "x": x,
            "y": y,
            "fill": scale["color"],
            "shape": scale["shape"],
            "description": {"field": "tooltip"},
        },
    }


def _steps(rows: list[dict[str, Any]], names: list[str], series: Sequence[Series]) -> dict[str, Any]:
    scale, height = scales(series), 220
    low, high = domain([row["value"] for row in rows])
    ends = [row for row in rows if row["part"] == names[-1]]
    wished = [height * (high - row["value"]) / (high - low) for row in ends]
    labels = [
        {"method": row["method"], "name": short(row["method"]), "place": place}
        for row, place in zip(ends, apart(wished, 16, 4, height), strict=True)
    ]
    x = {"field": "part", "type": "ordinal", "title": None, "sort": None, "axis": {"labelAngle": 0}}
    y = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [low, high], "nice": False},
        "axis": NUMBERS,
    }
    tooltip = {"description": {"field": "tooltip"}}
    return {
        "width": WIDTH - 52 - LABELS,
        "height": height,
        "data": values(rows),
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"color": scale["color"]}},
            {
                "mark": {"type": "point", "size": 40},
                "encoding": {"color": scale["color"], "shape": scale["shape"], **tooltip},
            },
            *labels_beside(labels, scale),
        ],
    }
