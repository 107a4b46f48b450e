"""`harness simulate`: how often tables of synthetic scores are wrong."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.output import Json, check_file, print_json
from harness.errors import UserError
from harness.files import store
from harness.progress import progress

EPILOG = (
    "Examples:\n\n  harness simulate --tables 100\n\n"
    "  harness simulate --jobs 8 --output docs/simulation.json --docs docs/statistics.md   # 2,000 tables each"
)


def simulate(
    tables: Annotated[int, typer.Option(min=20, help="Tables per setting.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the random scores.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Settings that are simulated concurrently.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the measurements.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Put the table between the markers in this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how often tables of synthetic scores with a known truth are wrong; exit code 1 if more than promised.

    The statistics are those of real tables. docs/statistics.md has the results of the long form.
    """
    from harness.statistics.simulation import promises, report

    check_file(output, "simulation.json")
    text = docs.read_text(encoding="utf-8") if docs and docs.is_file() else ""
    if docs and report.BEGIN not in text:
        raise UserError(f"{docs} has no line {report.BEGIN}")
    with progress("simulation", len(promises.settings())) as advance:
        found = promises.run(tables, jobs, seed, advance)
    broken = [f"{each.setting}: {problem}" for each in found for problem in promises.broken(each)]
    measured = {"tables": tables, "seed": seed, "broken": broken, "measured": [each.as_dict() for each in found]}
    if output:
        store.write_text(output, json.dumps(measured, indent=1) + "\n")
    if docs:
        store.write_text(docs, report.between_markers(text, report.to_markdown(found)))
    print_json(measured) if as_json else print(report.to_markdown(found))
    if broken:
        raise typer.Exit(1)
