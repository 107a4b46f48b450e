"""The record of tuning in a run folder: every trial with its score and cost, and which one was chosen.

RUN/tuning/trials.json holds "command", which made it, and "trials", a list of rows, method by method:

    {"method": "dpo", "trial": 2, "options": {"learning_rate": 0.00032, "beta": 0.12}, "fixed": [], "score": 6.31,
     "metric": "rating (1-10)", "judge": "testbed-world", "questions": 400, "missing": 0, "unparsed": 0,
     "failed": null, "chosen": true, "ledger": {"flops": 1.2e12, "trained_tokens": ..., "generated_tokens": ..., ...}}

options: the tuned options with the values of this trial (the defaults in trial 0). fixed: the options of the method's
search space that the user set. score: null where no answer has a rating, or where the trial failed; failed then says
why. ledger: the fields of `harness.budget.Spending` except seconds, for training and the answers that were scored.
"""

from pathlib import Path
from typing import Any, TypedDict

from harness.files import store
from harness.files.folders import RunFolder
from harness.tables.schema import Tuning


class TrialRow(TypedDict):
    """One trial, see above."""

    method: str
    trial: int
    options: dict[str, Any]
    fixed: list[str]
    score: float | None
    metric: str | None
    judge: str | None
    questions: int | None
    missing: int | None
    unparsed: int | None
    failed: str | None
    ledger: dict[str, float]
    chosen: bool


class TrialRecord(TypedDict):
    """The content of trials.json."""

    command: str
    trials: list[TrialRow]


def read(root: Path) -> list[TrialRow]:
    """All trials of a run folder; none where nothing was tuned."""
    file = RunFolder(root).trials
    if not file.exists():
        return []
    record: TrialRecord = store.read_json(file)
    return record["trials"]


def of_row(root: Path, method: str) -> Tuning | None:
    """How the options of a method were tuned; None where it has its defaults, or what the user set."""
    flops = [row["ledger"]["flops"] for row in read(root) if row["method"] == method]
    return Tuning(len(flops), sum(flops)) if flops else None


def choice(root: Path, method: str) -> dict[str, Any] | None:
    """The options that tuning chose for a method; None where it chose none."""
    return next((row["options"] for row in read(root) if row["method"] == method and row["chosen"]), None)
