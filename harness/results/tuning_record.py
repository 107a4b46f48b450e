"""What tuning left in a run folder: every trial with its score and cost, and which one was chosen.

RUN/tuning/trials.json holds "command", which made it, and "trials", a list of rows, of each method in turn:

    {"method": "dpo", "trial": 2, "options": {"learning_rate": 0.00032, "beta": 0.12}, "fixed": [], "score": 6.31,
     "metric": "rating (1-10)", "judge": "testbed-world", "questions": 400, "missing": 0, "unparsed": 0,
     "failed": null, "chosen": true, "ledger": {"flops": 1.2e12, "trained_tokens": ..., "generated_tokens": ..., ...}}

options are those that were tried, with the values of this trial (the defaults in trial 0); fixed, those of the method's
search space that the user set. score is null where no answer has a rating, or where the trial failed: then failed says
why. ledger has the fields of `harness.budget.Spending` but seconds, of training and the answers that were scored.
"""

from pathlib import Path
from typing import Any

from harness.files import store
from harness.tables.schema import Tuning

FILE = Path("tuning", "trials.json")


def read(root: Path) -> list[dict[str, Any]]:
    """All trials of a run folder, none where nothing was tuned."""
    file = root / FILE
    return store.read_json(file)["trials"] if file.exists() else []


def document(rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """What the file holds."""
    return {"command": command, "trials": rows}


def of_row(root: Path, method: str) -> Tuning | None:
    """How the options of a method in a run folder were tuned; None where it has its defaults, or what the user set."""
    flops = [row["ledger"]["flops"] for row in read(root) if row["method"] == method]
    return Tuning(len(flops), sum(flops)) if flops else None


def choice(root: Path, method: str) -> dict[str, Any] | None:
    """The options of a method that tuning chose; None where it has not."""
    return next((row["options"] for row in read(root) if row["method"] == method and row["chosen"]), None)
