"""Writes the report page and figures to files."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from harness.commands.output import check_file
from harness.errors import unknown_name
from harness.files import store

FILE = "report.html"


def write_report(run_folder: Path, output: Path | None) -> Path:
    """Write the report page of a finished run, by default in its folder; return the file.

    Raises:
        UserError: when the run is not finished, or there is a folder in place of the file.
    """
    from harness.report.page import page
    from harness.report.run import ReportedRun

    file = output or run_folder / FILE
    check_file(file, FILE)
    run = ReportedRun.read(run_folder)
    store.write_text(file, page(run, datetime.now()))
    return file


def write_figure(kind: str, run_folders: Sequence[Path], output: Path) -> Path:
    """Write a figure of finished runs; return the file.

    Raises:
        UserError: when there is no such figure, or nothing to draw.
    """
    from harness.report.run import ReportedRun
    from harness.report.standalone import FIGURES, as_file

    if kind not in FIGURES:
        raise unknown_name("figure", kind, FIGURES)
    check_file(output, f"{kind}.svg")
    runs = [ReportedRun.read(path) for path in run_folders]
    command = shlex.join(["harness", "figure", kind, *map(str, run_folders), "--output", str(output)])
    store.write_text(output, as_file(FIGURES[kind](runs), runs, command))
    return output
