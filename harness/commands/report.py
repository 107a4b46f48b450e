"""The report page: written to a file, and said in a line."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import store
from harness.commands.options import FLAGS
from harness.commands.output import check_file
from harness.errors import unknown_name
from harness.experiment import Experiment

FILE = "report.html"


def write_report(run_folder: Path, output: Path | None) -> Path:
    """The report page of a finished run, in its folder or where it is wanted.

    Raises:
        UserError: when the run is not finished, or a folder is in the place of the file.
    """
    from harness.report.page import page
    from harness.report.run import Run

    file = output or run_folder / FILE
    check_file(file, FILE)
    run = Run.read(run_folder)
    store.write_text(file, page(run, command_of(run.experiment), datetime.now()))
    return file


def write_figure(kind: str, run_folders: Sequence[Path], output: Path) -> Path:
    """A figure of finished runs.

    Raises:
        UserError: when there is no such figure, or nothing to draw.
    """
    from harness.report.run import Run
    from harness.report.standalone import FIGURES, as_file

    if kind not in FIGURES:
        raise unknown_name("figure", kind, FIGURES)
    check_file(output, f"{kind}.svg")
    runs = [Run.read(path) for path in run_folders]
    store.write_text(output, as_file(FIGURES[kind](runs), runs))
    return output


def command_of(experiment: Experiment) -> str:
    """A command that asks for the same experiment."""
    words = ["harness", "run"]
    for each in fields(Experiment):
        value = getattr(experiment, each.name)
        flag = FLAGS.get(each.name, (f"--{each.name.replace('_', '-')}",))[0]
        if isinstance(value, dict):  # of settings by name
            for name, changes in value.items():
                for option, chosen in changes.items():
                    words += [flag, f"{name}.{option}={_word(chosen)}"]
        elif value != each.default:
            words += [flag] if value is True else [flag, _word(value)]
    return shlex.join(words)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)
