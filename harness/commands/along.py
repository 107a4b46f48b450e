"""Prints the scores of a run along the way, or writes them to a file."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.commands.output import check_file, print_json
from harness.errors import UserError
from harness.files import store
from harness.results.along import Along, Point, along
from harness.results.folder import StoredRun
from harness.tables.layout import NONE, Entry, TextGrid, digits_of, estimate, heading
from harness.tables.markdown import bullets, code, escape, grid
from harness.tables.schema import Column


def show_checkpoints(runs: Sequence[Path], as_json: bool, output: Path | None, **others: str | None) -> None:
    """Print the scores along the way of one run as markdown or JSON, or write them to a file and print its name.

    Args:
        others: options of the table of final scores, which are refused.

    Raises:
        UserError: for several runs, a run without checkpoints, or one that is not finished.
    """
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise UserError(f"{', '.join(given)} has no effect with --checkpoints: leave it out")
    if len(runs) > 1:
        raise UserError(f"--checkpoints shows one run: give one, not {len(runs)}")
    check_file(output, "checkpoints.md")
    as_json |= output is not None and output.suffix.lower() == ".json"
    run = StoredRun.read(runs[0])
    found = along(run)
    if output is None:
        if as_json:
            print_json(_as_json(found, run))
        else:
            print(_as_markdown(found, run))
        return
    words = shlex.join(["harness", "table", str(runs[0]), "--checkpoints", "--output", str(output)])
    if as_json:
        text = json.dumps(_as_json(found, run) | {"command": words}, indent=2)
    else:
        text = f"{_as_markdown(found, run)}\nMade by {code(words)}"
    store.write_text(output, text + "\n")
    print(output)


def _as_json(found: Along, run: StoredRun) -> dict[str, Any]:
    metrics = {column.name: column.metric for column in run.table().benchmarks}
    data: dict[str, Any] = store.plain({"metrics": metrics, **asdict(found), "notes": found.notes})
    return data


def _as_markdown(found: Along, run: StoredRun) -> str:
    columns, seeds = run.table().benchmarks, run.experiment.seeds
    head = ("method", "at", "FLOPs", "updates", *map(heading, columns))
    rows = []
    for point in found.points:
        at = "not trained" if not point.fraction else "end" if point.fraction == 1 else f"{point.fraction:g}"
        at += f" ({len(point.seeds)} of {seeds} seeds)" if len(point.seeds) < seeds else ""
        flops = f"{point.flops:.4g}" if point.flops else NONE
        shown = [Entry(point.method), Entry(at), Entry(flops), Entry(f"{point.updates:g}")]
        rows.append((*shown, *(_score(point, column) for column in columns)))
    notes = bullets([*found.notes, "Bold: on the Pareto front of its column."])
    return f"## {escape(run.name)}, along the way\n\n{grid(TextGrid(head, tuple(rows)))}\n\n{notes}\n"


def _score(point: Point, column: Column) -> Entry:
    found, missing = point.scores.get(column.name), point.missing.get(column.name, 0)
    if found is None:
        return Entry(NONE)
    text = estimate(found, digits_of(column.metric)) + (f" ({missing} missing)" if missing else "")
    return Entry(text, len(text.partition(" ")[0]) if column.name in point.front else 0)
