"""The page: figures, tables, texts and samples in one HTML file that loads nothing else.

Texts of models, judges, prompts and files are data. The template escapes all of them, the script only sets text,
samples are stored as base64, and the page's policy (CSP) lets no other script or style run.
"""

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from math import isnan
from statistics import fmean
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from harness.benchmarks.loading import benchmarks_of
from harness.report import along, figures, samples, training, wording
from harness.report.drawing import Figure, Series
from harness.report.pairs import training_blocks
from harness.report.run import ReportedRun
from harness.report.verdict import Verdict, verdict
from harness.results import tuning_record
from harness.results.along import along as scores_along
from harness.results.folder import CODE_FILES, MACHINE
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.layout import NONE, count, digits_of, duration
from harness.tables.schema import Cell, Column, Row

NO_VERSIONS = ("format", "command", "machine", "system", CODE_FILES, *MACHINE)  # other fields of versions.json


def page(run: ReportedRun, made: datetime) -> str:
    """The whole HTML document.

    Args:
        made: when the page is made.
    """
    series = {name: Series(name, index) for index, name in enumerate(run.methods)}
    conclusion = verdict(run)
    found = scores_along(run.stored) if run.experiment.fractions else None
    texts = {name: (files("harness.report") / "html" / name).read_text("utf-8") for name in ("page.css", "page.js")}
    style, script = texts["page.css"], texts["page.js"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": wording.number, "signed": wording.signed, "power": wording.power}
    environment.filters |= {"count": count, "duration": duration}
    environment.globals |= {"p_value": wording.p_value, "interval": wording.interval, "listed": wording.listed}
    template = environment.from_string((files("harness.report") / "html" / "page.html.jinja").read_text("utf-8"))
    return template.render(
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        run=run,
        table=run.table,
        series=series,
        verdict=conclusion,
        leaders={leader.column.name: leader for leader in conclusion.leaders},
        digits={column.name: digits_of(column.metric) for column in run.table.benchmarks},
        marks={row.method: _marks(row, conclusion) for row in run.table.rows},
        forests=_drawn(figures.forest(run, column, [*series.values()]) for column in run.table.benchmarks),
        scalings=_drawn(
            [
                *(figures.scaling(run, column, [*series.values()]) for column in run.table.benchmarks),
                figures.budget(run),
            ]
        ),
        along=found,
        along_figures=_drawn(along.of_column(found, column, [*series.values()]) for column in run.table.benchmarks)
        if found
        else [],
        parts=[(column, list(_parts(run, column, [*series.values()]))) for column in run.table.benchmarks],
        further={column.name: _further(run, column) for column in run.table.benchmarks},
        curves=_drawn(training.curves(run, each) for each in series.values()),
        pair_quality=training.pair_quality(run, [*series.values()]),
        health=training.health_rows(run),
        blocks=[*samples.blocks(run), *training_blocks(run)],
        trials=tuning_record.read(run.path),
        provenance=_provenance(run, made),
        versus=_versus(run, conclusion),
        svg=Markup,
    )


def _versus(run: ReportedRun, conclusion: Verdict) -> dict[str, Any]:
    """What the page needs to compare any two methods: each pair of ranked methods, and each method with the baseline.

    Returns: {"first", "second": the two that are compared at first, "rows": [[benchmark, first, second, decimals,
        difference, low, high, p, corrected p]]}, with null where there is none.
    """
    titles = {column.name: column for column in run.table.benchmarks}
    rows: list[list[Any]] = []
    for pair in conclusion.pairs:
        rows.append([pair.benchmark, pair.first, pair.second, pair.difference, pair.p_holm])
    known = {(benchmark, first, second) for benchmark, first, second, *_ in rows}
    baseline = run.table.baseline
    for row in run.table.rows:
        for name, cell in row.cells.items():
            if cell.difference and not known & {(name, row.method, baseline), (name, baseline, row.method)}:
                rows.append([name, row.method, baseline, cell.difference, cell.p_holm])
    methods = [row.method for row in run.table.rows]
    others = [method for method in methods if method != baseline]
    wished = [method for method in ("sso", "dpo") if method in others]
    first, second = [*wished, *(method for method in others if method not in wished), baseline, baseline][:2]
    return {
        "first": first,
        "second": second,
        "methods": methods,
        "rows": [
            [
                titles[name].title,
                *(one, other, digits_of(titles[name].metric), difference.value),
                *(None if isnan(end) else end for end in (difference.low, difference.high)),
                *(difference.p_value, p_holm),
            ]
            for name, one, other, difference, p_holm in rows
        ],
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _drawn(found: Any) -> list[Figure]:
    return [figure for figure in found if figure]


def _marks(row: Row, conclusion: Verdict) -> dict[str, list[str]]:
    """Benchmark -> marks of a cell of the leaderboard: "sure" (differs from the baseline), "best" (clearly ahead of all
    others)."""
    clear = {leader.column.name for leader in conclusion.leaders if leader.clear and leader.row is row}
    return {name: ["sure"] * _sure(cell) + ["best"] * (name in clear) for name, cell in row.cells.items()}


def _sure(cell: Cell) -> bool:
    return cell.p_holm is not None and cell.p_holm < SIGNIFICANT


def _parts(run: ReportedRun, column: Column, series: list[Series]) -> Iterator[Figure]:
    for field, how in benchmarks_of(run.experiment)[column.name].parts.items():
        found: dict[str, dict[str, list[float]]] = {}
        for method, by_seed in run.scores[column.name].items():
            for score in by_seed.values():
                for part, value in (score.details.get(field) or {}).items():
                    value = value["strict"] if isinstance(value, dict) else value
                    if value is not None:
                        found.setdefault(part, {}).setdefault(method, []).append(value)
        means = {part: {method: fmean(each) for method, each in by_method.items()} for part, by_method in found.items()}
        if figure := figures.parts(column, how, means, series, ordered=all(map(str.isdigit, means))):
            yield figure


def _further(run: ReportedRun, column: Column) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of further numbers, and their means over the seeds of each method."""
    further = benchmarks_of(run.experiment)[column.name].further
    by_method = {
        method: {
            name: [score.details[name] for score in by_seed.values() if score.details.get(name) is not None]
            for name in further
        }
        for method, by_seed in run.scores[column.name].items()
    }
    known = [name for name in further if any(numbers[name] for numbers in by_method.values())]
    rows = [
        (
            method,
            [
                wording.number(fmean(numbers[name]), 2 if "turn" in name else 1) if numbers[name] else NONE
                for name in known
            ],
        )
        for method, numbers in by_method.items()
    ]
    return [further[name] for name in known], rows


def _provenance(run: ReportedRun, made: datetime) -> list[tuple[str, str]]:
    experiment, judges = run.experiment, {column.judge for column in run.table.benchmarks if column.judge}
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items() if name not in NO_VERSIONS)
    return [
        ("Model", experiment.model),
        ("Prompts", experiment.prompts),
        ("Labelled pairs", experiment.preferences),
        ("Benchmark files", experiment.data_dir),
        ("Budget per run", str(experiment.cap)),
        ("Seeds", ", ".join(map(str, range(experiment.seeds)))),
        ("Judge", ", ".join(sorted(judges)) or "none needed"),
        ("Versions", versions),
        ("Machine", f"{run.versions.get('machine', '?')}, {run.versions.get('system', '?')}"),
        ("Scored", f"{run.finished:%Y-%m-%d %H:%M}"),
        ("Page made", f"{made:%Y-%m-%d %H:%M}"),
        ("Command", experiment.command),
    ]
