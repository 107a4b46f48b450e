"""Prints what `harness run --dry-run` found."""

from harness.commands.estimate import print_plan
from harness.commands.output import print_rows, readable
from harness.runs.dry_run import DryRun


def print_dry_run(found: DryRun) -> None:
    if found["plan"]:
        print_plan(found["plan"])
    rows = [
        (arm["method"], arm["seed"], step["step"], step["state"], step["does"])
        for arm in found["arms"]
        for step in arm["steps"]
    ]
    print_rows(("method", "seed", "step", "state", "what it does"), rows, title=f"Steps of {found['run']}")
    for reason in dict.fromkeys(step["reason"] for arm in found["arms"] for step in arm["steps"] if step["reason"]):
        print(f"would be refused: {readable(reason)}")
    for note in found["notes"]:
        print(f"note: {readable(note)}")
    print("nothing was computed or written")
