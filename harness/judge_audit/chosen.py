"""The judge that a command was given, with its log in a folder of the command."""

import re
from dataclasses import fields

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import RunFolder
from harness.judges.base import Judge

OPTIONS = tuple(each.name for each in fields(Experiment) if each.name.startswith("judge_"))
LONGEST_NAME = 60  # characters of the judge's name in a folder name
SHOWN_DIGEST = 8


def check_given(experiment: Experiment) -> None:
    """Check that a judge was chosen.

    Raises:
        UserError: when none was.
    """
    if not (experiment.judge_model or experiment.judge_engine):
        raise UserError("no judge was chosen: give --judge-model (and --judge-url) or --judge-engine")


def folder_name(experiment: Experiment) -> str:
    """Return a folder name for this judge alone: its name, for people, and a digest of name and endpoint."""
    name = experiment.judge_model or experiment.judge_engine or ""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[-LONGEST_NAME:].strip("-.") or "judge"
    return f"{readable}-{store.digest([name, experiment.judge_url, experiment.judge_engine])[:SHOWN_DIGEST]}"


def load_chosen(experiment: Experiment, folder: RunFolder) -> Judge:
    """Load the judge; its log is kept in `folder`/judge, or in --judge-log.

    Raises:
        UserError: when no judge was chosen, or it cannot be used.
    """
    from harness.runs.judge_choice import load_judge  # the command line imports this module

    check_given(experiment)
    judge = load_judge(experiment, folder)
    assert judge is not None
    return judge
