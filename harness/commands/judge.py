"""`harness judge`: which judges can be trusted."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.data import DATA
from harness.commands.options import experiment, takes
from harness.commands.output import Json, print_json, print_rows, readable
from harness.judge_audit.chosen import OPTIONS

app = typer.Typer(no_args_is_help=True, help="Judges: which of them can be trusted.")

RESULTS = Path("results")
LIMIT = 100


@app.callback()
def judge() -> None:
    """Judges: which of them can be trusted."""


@app.command(
    epilog="Examples:\n\n  harness judge audit --judge-model my-judge --judge-url http://localhost:8000/v1\n\n"
    "  harness judge audit --judge-engine ./my-judge --label-sets llmbar,auto-j --limit 50\n\n"
    "  harness judge audit --judge-model my-judge --labels labels.csv --json"
)
@takes(*OPTIONS, "device", "dtype", "batch_size", "rejudge")
def audit(
    given: dict,
    data_dir: Annotated[Path, typer.Option(help="Folder with the label sets.")] = DATA,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own labels instead: CSV, JSONL, JSON or Parquet with the columns question, answer_a, answer_b, "
            "label (A, B or tie), or question, answer, rating (1 to 10).",
        ),
    ] = None,
    label_sets: Annotated[
        str,
        typer.Option(
            help="Label sets of the data folder, separated by commas: llmbar, llmbar-adversarial, auto-j, alpaca-eval, "
            "mt-bench; default: all that are there."
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Pairs or answers per set, drawn at random.")] = LIMIT,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    own_model: Annotated[
        str, typer.Option(help="Other names of the judge's own model among the answers, separated by commas.")
    ] = "",
    results: Annotated[Path, typer.Option(help="Folder of results; audits are in audits/JUDGE below it.")] = RESULTS,
    as_json: Json = False,
) -> None:
    """Compare a judge with labels of people and of GPT-4; exit code 1 unless it is shown to be fit to rank.

    Pairs are asked in both orders. Replies are kept: the same command continues where it stopped.
    """
    from harness.judge_audit.run import run_audit

    names = _names(label_sets)
    report = run_audit(experiment(given), results, data_dir, labels, names, limit, seed, _names(own_model))
    if as_json:
        print_json(report)
    else:
        print_audit(report)
    if not report["fit"]:
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def print_audit(report: dict[str, Any]) -> None:
    """Print the report of `harness.judge_audit.run.run_audit`."""
    kinds = {kind: [each for each in report["sets"] if each["kind"] == kind] for kind in ("pairs", "ratings")}
    if kinds["pairs"]:
        print_rows(("pairs", "labels by", "asked", "no verdict", *AGREEMENT), map(_agreement, kinds["pairs"]))
        print_rows(("pairs", *BIASES), map(_biases, kinds["pairs"]))
    if kinds["ratings"]:
        print_rows(("ratings", "labels by", "asked", "no verdict", *RATING), map(_rating, kinds["ratings"]))
    for each in report["sets"]:
        print(readable(f"{each['name']}: {each['verdict']}."))
        for reason, number in each["left_out"].items():
            print(readable(f"{each['name']}: {number} labels left out: {reason}"))
    tokens = [sum(each[name] for each in report["sets"]) for name in ("prompt_tokens", "completion_tokens")]
    costs = [each["usd"] for each in report["sets"]]
    cost = "cost not known" if None in costs else f"{sum(costs):.4f} USD"
    print(f"{sum(each['askings'] for each in report['sets'])} judgments, {tokens[0]:,} + {tokens[1]:,} tokens, {cost}")
    for text in report["absent"]:
        print(readable(f"left out: {text}"))
    print(readable(report["verdict"]))


AGREEMENT = ("agreement", "kappa", "alpha", "consistent")
BIASES = ("picks first", "same place", "better is longer", "better is shorter", "beyond length", "own model")
RATING = ("kappa", "alpha", "correlation", "at equal length", "bias", "twice as long", "own model")


def _row(each: dict[str, Any]) -> list[Any]:
    return [each["name"], each["by"], each["askings"], f"{each['unparsed']} + {each['failed']} failed"]


def _agreement(each: dict[str, Any]) -> list[Any]:
    found = each["measures"]
    return [*_row(each), *(_interval(found[name]) for name in ("agreement", "kappa", "alpha", "consistent"))]


def _biases(each: dict[str, Any]) -> list[Any]:
    found = each["measures"]
    names = ("first", "same_place", "better_longer", "better_shorter", "beyond_length", "own_gain")
    return [each["name"], *(_interval(found[name]) for name in names)]


def _rating(each: dict[str, Any]) -> list[Any]:
    found = each["measures"]
    names = ("kappa", "alpha", "correlation", "at_equal_length", "bias", "length_gain", "own_gain")
    return [*_row(each), *(_interval(found[name]) for name in names)]


def _interval(found: dict[str, float | None] | None) -> str | None:
    if found is None:
        return None
    if found["low"] is None:
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
