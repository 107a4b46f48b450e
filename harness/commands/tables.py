"""Prints tables and the leaderboard, or writes them to a file that names the command that made it."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.commands.output import check_file, print_json
from harness.errors import UserError
from harness.files import store
from harness.results.folder import Reader, StoredRun, table_of, write_table
from harness.results.leaderboard import FILE, leaderboard
from harness.results.merging import BASE, merge
from harness.tables import FORMATS, SUFFIXES, render, to_json
from harness.tables.reported import read
from harness.tables.schema import Table
from harness.tables.terminal import print_table


def show_table(
    runs: Sequence[Path],
    form: str | None,
    output: Path | None,
    baseline: str | None,
    reported: str | None,
    reported_file: Path,
) -> None:
    """Print the table of these runs, or write it to a file and print the file's name.

    Args:
        form: one of FORMATS; None for that of the file's suffix, or markdown.

    Raises:
        UserError: when a run is not finished, runs cannot be compared, or something does not exist.
    """
    on_terminal = form is None and output is None and sys.stdout.isatty()
    form = form or (SUFFIXES.get(output.suffix.lower(), "markdown") if output else "markdown")
    if form not in FORMATS:
        raise UserError(f"unknown format {form!r}: give {', '.join(FORMATS)}")
    check_file(output, "table.md")
    published = read(reported_file, reported) if reported else ()
    table = replace(_table(runs, baseline), reported=published)
    if on_terminal:
        print_table(table)
        return
    if output is None:
        print_json(to_json(table)) if form == "json" else print(render(table, form), end="")
        return
    words = ["harness", "table", *map(str, runs), "--format", form, "--output", str(output)]
    words += [*(("--baseline", baseline) if baseline else ()), *(("--reported", reported) if reported else ())]
    store.write_text(output, render(replace(table, command=shlex.join(words)), form))
    print(output)


def _table(runs: Sequence[Path], baseline: str | None) -> Table:
    if len(runs) > 1:
        reader = Reader()
        return merge([StoredRun.read(run, reader) for run in runs], baseline or BASE)
    return write_table(runs[0]) if baseline is None else table_of(runs[0], baseline)


def write_leaderboard(results: Path, output: Path | None) -> Path:
    """Write the leaderboard of a folder of results; return the file.

    Raises:
        UserError: when there are no results, or there is a folder in place of the file.
    """
    file = output or results / FILE
    check_file(file, FILE)
    words = ["harness", "leaderboard", *(("--results", str(results)) if str(results) != "results" else ())]
    words += ["--output", str(output)] if output else []
    store.write_text(file, leaderboard(results, shlex.join(words)))
    return file
