"""Training as the page shows it: curves of each method, and the quality of its pairs."""

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from harness.report.drawing import MUTED, SIZE, WIDTH, Figure, Series, draw, scales, values
from harness.report.run import ReportedRun, StageReport
from harness.report.wording import number
from harness.tables.layout import NONE

POINTS = 100  # of a curve; longer ones are shown as means of neighbours
CURVES = (  # title, and name -> (field of the history, dashes)
    ("loss", {"loss": ("loss", [1, 0])}),
    ("accuracy of pairs", {"accuracy": ("accuracy", [1, 0])}),
    (
        "log-probability per token: chosen; rejected dashed",
        {"chosen": ("chosen_logp", [1, 0]), "rejected": ("rejected_logp", [4, 3])},
    ),
    (
        "chosen compared with the reference, nats per token",
        {"chosen compared with the reference": ("chosen_logratio", [1, 0])},
    ),
)


def curves(run: ReportedRun, series: Series) -> Figure | None:
    """Curves of a method's training over its updates, one stage after the other; None where nothing is stored."""
    by_seed = {
        seed: list(stages)
        for seed, stages in groupby(
            (stage for stage in run.stages if stage.method == series.name), key=lambda stage: stage.seed
        )
    }
    if not any(stage.history for stages in by_seed.values() for stage in stages):
        return None
    panels, table = [], []
    for title, lines in CURVES:
        rows = []
        for name, (field, _) in lines.items():
            curve = {seed: _points(stages, field) for seed, stages in by_seed.items()}
            rows += [
                {"line": name, "run": f"{name} {seed} {stage}", "step": step, "value": value, "mean": False}
                for seed, points in curve.items()
                for stage, step, value in points
            ]
            mean = _mean(curve)
            rows += [
                {"line": name, "run": f"{name} {stage}", "step": step, "value": value, "mean": True}
                for stage, step, value in mean
            ]
            if mean:
                table.append((name, number(mean[0][2], 3), number(mean[-1][2], 3)))
        if rows:
            panels.append(_panel(title, rows, lines, series))
    starts = _starts(next(iter(by_seed.values())))
    for panel in panels:
        panel["layer"].insert(0, _boundaries(starts, labels=panel is panels[0]))
    for layer in panels[-1]["layer"][1:]:
        layer["encoding"]["x"] |= {"title": "updates", "axis": {"grid": False, "tickCount": 4, "tickMinStep": 1}}
    return Figure(
        series.name,
        draw({"vconcat": panels, "spacing": 14, "resolve": {"scale": {"strokeDash": "independent"}}}),
        f"Training of {series.name}: thin lines are seeds, the thick line is their mean. For log-probabilities, the "
        "full line shows chosen responses, the dashed line rejected ones.",
        ("", "first update", "last update"),
        tuple(table),
    )


def _points(stages: Sequence[StageReport], field: str) -> list[tuple[str, float, float]]:
    """(stage, update counted over all stages, value) of a field, at most about POINTS per stage."""
    found, before = [], 0
    for stage in stages:
        points = [(before + row["step"], row[field]) for row in stage.history if row.get(field) is not None]
        size = max(1, -(-len(points) // POINTS))
        for start in range(0, len(points), size):
            steps, measured = zip(*points[start : start + size], strict=True)
            found.append((stage.name, fmean(steps), fmean(measured)))
        before += len(stage.history)
    return found


def _mean(by_seed: dict[int, list[tuple[str, float, float]]]) -> list[tuple[str, float, float]]:
    """The mean over seeds of the n-th point of each stage, for points that all seeds have."""
    stages = dict.fromkeys(stage for points in by_seed.values() for stage, *_ in points)
    found = []
    for stage in stages:
        of_stage = [[point for point in points if point[0] == stage] for points in by_seed.values()]
        for same in zip(*of_stage, strict=False):
            found.append((stage, fmean(point[1] for point in same), fmean(point[2] for point in same)))
    return found


def _starts(stages: Sequence[StageReport]) -> list[dict[str, Any]]:
    starts, before = [], 0
    for stage in stages:
        starts.append({"step": before, "stage": stage.name})
        before += len(stage.history)
    return starts if len(starts) > 1 else []


def _boundaries(starts: list[dict[str, Any]], labels: bool) -> dict[str, Any]:
    x = {"field": "step", "type": "quantitative"}
    layer = [{"mark": {"type": "rule", "color": MUTED, "strokeDash": [2, 3], "aria": False}, "encoding": {"x": x}}]
    if labels:
        mark = {"type": "text", "align": "left", "baseline": "bottom", "y": -2, "dx": 2, "fill": MUTED}
        layer.append({"mark": mark, "encoding": {"x": x, "text": {"field": "stage"}}})
    return {"data": values(starts), "layer": layer}


def _panel(
    title: str, rows: list[dict[str, Any]], lines: dict[str, tuple[str, list[int]]], series: Series
) -> dict[str, Any]:
    dash = {
        "field": "line",
        "type": "nominal",
        "scale": {"domain": list(lines), "range": [dashes for _, dashes in lines.values()]},
        "legend": None,
    }
    x = {
        "field": "step",
        "type": "quantitative",
        "title": None,
        "axis": {"labels": False, "grid": False},
        "scale": {"nice": False},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"zero": False},
        "axis": {"grid": True, "tickCount": 3, "minExtent": 44, "maxExtent": 44},
    }

    def layer(mean: bool) -> dict[str, Any]:
        return {
            "transform": [{"filter": {"field": "mean", "equal": mean}}],
            "mark": {
                "type": "line",
                "stroke": series.color,
                "strokeWidth": 2.2 if mean else 0.8,
                "opacity": 1 if mean else 0.45,
            },
            "encoding": {"x": dict(x), "y": y, "detail": {"field": "run"}, "strokeDash": dash},
        }

    return {
        "title": {
            "text": title,
            "anchor": "start",
            "frame": "group",
            "fontSize": SIZE,
            "fontWeight": "normal",
            "color": MUTED,
            "offset": 12,
        },
        "width": WIDTH - 54,
        "height": 84,
        "data": values(rows),
        "layer": [layer(False), layer(True)],
    }


def pair_quality(run: ReportedRun, series: Sequence[Series]) -> Figure | None:
    """Accuracy of pairs against the probability of the chosen response (SSO paper, figure 3), a mark per stage."""
    rows = [
        {
            "method": stage.method,
            "x": stage.health["chosen_probability"],
            "y": 100 * stage.health["pair_accuracy"],
            "tooltip": f"{stage.method} seed {stage.seed}, {stage.name}: accuracy {stage.health['pair_accuracy']:.0%}, "
            f"probability of the chosen {stage.health['chosen_probability']:.2f}",
        }
        for stage in run.stages
        if stage.health.get("pair_accuracy") is not None and stage.health.get("chosen_probability") is not None
    ]
    if not rows:
        return None
    scale, height = scales(series), 220
    axis = {"grid": True, "tickCount": 4}
    spec = {
        "width": WIDTH - 60,
        "height": height,
        "data": values(rows),
        "mark": {"type": "point", "size": 56, "stroke": "var(--panel)", "strokeWidth": 0.7},
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": "probability of a chosen token before training",
                "scale": {"zero": False},
                "axis": axis,
            },
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": "judge prefers the chosen, %",
                "scale": {"zero": False},
                "axis": axis,
            },
            "fill": scale["color"],
            "shape": scale["shape"],
            "description": {"field": "tooltip"},
        },
    }
    return Figure(
        "Are the pairs right, and are they the model's own?",
        draw(spec),
        "How often the judge prefers the chosen response of a pair, against how probable its tokens are for the model "
        "before training; one mark per stage and seed.",
        ("run and stage",),
        tuple((row["tooltip"],) for row in rows),
    )


def health_rows(run: ReportedRun) -> list[dict[str, Any]]:
    """One row per method and stage, as texts: means over seeds, sums of counts, and all warnings."""
    found = []
    order = {method: place for place, method in enumerate(run.methods)}
    stages = sorted((stage for stage in run.stages if stage.health), key=lambda stage: order[stage.method])
    for (method, name), group in groupby(_by_stage(stages), key=lambda stage: (stage.method, stage.name)):
        runs = list(group)
        discarded: dict[str, int] = {}
        events: dict[str, int] = {}
        for stage in runs:
            for into, field in ((discarded, "discarded"), (events, "events")):
                for reason, times in stage.health.get(field, {}).items():
                    into[reason] = into.get(reason, 0) + times
        found.append(
            {
                "method": method,
                "stage": name,
                "examples": _average(runs, "examples", 0),
                "accuracy": _average(runs, "pair_accuracy", 1, 100),
                "chosen": _average(runs, "chosen_probability", 3),
                "rejected": _average(runs, "rejected_probability", 3),
                "tokens": _average(runs, "completion_tokens", 1),
                "finished": _average(runs, "finished", 1, 100),
                "discarded": "; ".join(f"{times} {reason}" for reason, times in (discarded | events).items()) or NONE,
                "warnings": [f"seed {stage.seed}: {text}" for stage in runs for text in stage.health["warnings"]],
            }
        )
    return found


def _by_stage(stages: Sequence[StageReport]) -> list[StageReport]:
    """Stages with the same method and name next to each other, in the order of the first."""
    places = {key: place for place, key in enumerate(dict.fromkeys((stage.method, stage.name) for stage in stages))}
    return sorted(stages, key=lambda stage: places[stage.method, stage.name])


def _average(stages: Sequence[StageReport], field: str, digits: int, factor: float = 1.0) -> str:
    known = [stage.health[field] for stage in stages if stage.health.get(field) is not None]
    return number(factor * fmean(known), digits) if known else NONE
