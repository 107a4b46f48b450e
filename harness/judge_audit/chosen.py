"""The judge that a command was given, with its log in a folder of the command."""

import re
from dataclasses import fields

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import RunFolder
from harness.judges.base import Judge
from harness.runs.inputs import load_judge

OPTIONS = tuple(each.name for each in fields(Experiment) if each.name.startswith("judge_"))
LONGEST_NAME = 60  # characters of a judge's name in that of a folder
SHOWN_DIGEST = 8


def check_given(experiment: Experiment) -> None:
    """
    Raises:
        UserError: when no judge was chosen.
    """
    if not (experiment.judge_model or experiment.judge_engine):
        raise UserError("no judge was chosen: give --judge-model (and --judge-url) or --judge-engine")


def folder_name(experiment: Experiment) -> str:
    """Of this judge alone: its name, for people, and a digest of name and endpoint."""
    name = experiment.judge_model or experiment.judge_engine
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[-LONGEST_NAME:].strip("-.") or "judge"
    return f"{readable}-{store.digest([name, experiment.judge_url, experiment.judge_engine])[:SHOWN_DIGEST]}"


def load_chosen(experiment: Experiment, folder: RunFolder) -> Judge:
    """The judge; what it is asked is kept in `folder`/judge, or in --judge-log."""
    check_given(experiment)
    return load_judge(experiment, folder)
