"""`harness rejudge`: whether another judge ranks the methods of a finished run in the same order."""

from typing import Any

from harness.commands.options import RunFolder, experiment, takes
from harness.commands.output import Json, print_json, print_rows, readable
from harness.judge_audit.chosen import OPTIONS

EPILOG = (
    "Examples:\n\n  harness rejudge results/runs/all --judge-model other --judge-url http://localhost:8000/v1\n\n"
    "  harness rejudge results/runs/all --judge-engine ./judge --json"
)


@takes(*OPTIONS, "device", "dtype", "batch_size")
def rejudge(
    given: dict,
    run_folder: RunFolder,
    as_json: Json = False,
) -> None:
    """Judge the stored answers of a finished run again with another judge, and compare the order of methods.

    No answer is recomputed, and the run's files stay as they are. The other judge's replies are kept in
    RUN/rejudged/JUDGE, and the same command continues where it stopped.
    """
    from harness.judge_audit.rejudge import rejudge as judge_again

    report = judge_again(run_folder, experiment(given))
    if as_json:
        print_json(report)
    else:
        print_rejudged(report)


def print_rejudged(report: dict[str, Any]) -> None:
    """Print the report of `harness.judge_audit.rejudge`: the columns of both judges side by side."""
    from harness.judge_audit.rejudge import reasons

    for each in report["benchmarks"]:
        columns = ["method"]
        for judge in each["judges"]:
            columns += [f"{judge}: {each['metric']}", "rank", "no verdict"]
        shown = [*each["methods"], *each["judged_once"]]
        rows = [[row["method"], *(text for cell in row["by"] for text in _texts(cell))] for row in shown]
        print_rows(columns, rows, title=each["benchmark"])
    for each in report["benchmarks"]:
        print(readable(each["verdict"]))
    for reason in reasons(report):
        print(readable(reason))
    print(readable(report["folder"]))


def _texts(cell: dict[str, Any] | None) -> tuple[Any, ...]:
    """Return score, rank and number without a verdict as they are shown; dashes for a judge without verdicts."""
    if cell is None:
        return ("–",) * 3
    low, high = cell["interval"]
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{cell['value']:.2f}{interval}", cell["rank"] or "–", cell["missing"] + cell["unparsed"]
