"""`harness power`: the smallest difference that seeds and questions can show, and the cheapest mix for a given one."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.options import run_folder
from harness.commands.output import Json, print_json, print_rows
from harness.errors import UserError

EPILOG = (
    "Examples:\n\n  harness power results/runs/pilot --difference 1.5\n\n"
    "  harness power results/reference/testbed.json --methods sso,dpo --seeds 3,5,12 --questions 100,400\n\n"
    "  harness power --question-sd 30 --rest-sd 30 --seed-sd 1 --difference 3 --tests 28"
)
SEEDS = "3,5,12"
QUESTIONS = "100,300,1000"
RUN_COST, ANSWER_COST = 1.0, 0.001  # without a pilot: a training run costs as much as 1,000 answers


def power(
    pilot: Annotated[
        Path | None,
        typer.Argument(
            metavar="PILOT",
            parser=run_folder,
            help="A run, or a reference of harness check; default: --question-sd.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Two methods of the pilot.", show_default="all pairs")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="S,S", help="Numbers of seeds.")] = SEEDS,
    questions: Annotated[
        str | None, typer.Option(metavar="Q,Q", help="Numbers of independent questions.", show_default="the pilot's")
    ] = None,
    difference: Annotated[float | None, typer.Option(help="Difference to detect.", min=0)] = None,
    tests: Annotated[int, typer.Option(min=1, help="Number of comparisons to correct for.")] = 1,
    question_sd: Annotated[
        float | None, typer.Option(min=0, help="Standard deviation of differences between questions.")
    ] = None,
    rest_sd: Annotated[
        float, typer.Option(min=0, help="Standard deviation of differences between answers to one question.")
    ] = 0.0,
    seed_sd: Annotated[
        float, typer.Option(min=0, help="Standard deviation of differences between training runs.")
    ] = 0.0,
    run_cost: Annotated[
        float | None, typer.Option(min=0, help="Cost of a training run.", show_default="seconds in the pilot, else 1")
    ] = None,
    answer_cost: Annotated[
        float | None,
        typer.Option(
            min=0, help="Cost of an answer and its judgment.", show_default="seconds in the pilot, else 0.001"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the smallest difference of two methods that is detected with 80 % power, and its interval's half-width.

    It is computed before a run, from a pilot, a kept run, or assumed standard deviations.
    """
    from harness.regression.pilots import Pilot, pilots
    from harness.statistics.power import Variance

    if (pilot is None) == (question_sd is None):
        raise UserError("give either a PILOT (a run folder, or a reference) or --question-sd")
    if question_sd is not None:
        assumed = Variance(question_sd**2, rest_sd**2, seed_sd**2)
        found = [Pilot("assumed", assumed, (), 0, 0)]
    elif pilot is not None:
        named = [each.strip() for each in methods.split(",")] if methods else []
        if named and len(set(named)) != 2:
            raise UserError(f"--methods {methods!r}: give two methods, such as sso,dpo")
        found = pilots(pilot, named)
    plans = [
        _plan(each, _numbers("--seeds", seeds, 1), _asked(questions, each), difference, tests, run_cost, answer_cost)
        for each in found
    ]
    if as_json:
        print_json({"tests": tests, "difference": difference, "benchmarks": plans})
        return
    for plan in plans:
        _print(plan, tests, difference)


def _plan(
    pilot: Any,
    seeds: Sequence[int],
    questions: Sequence[int],
    difference: float | None,
    tests: int,
    run_cost: float | None,
    answer_cost: float | None,
) -> dict[str, Any]:
    from harness.statistics.power import ALPHA, cheapest, half_width, minimum_detectable_effect

    known, alpha = pilot.variance, ALPHA / tests
    rows = [
        {
            "seeds": number,
            "questions": asked,
            "detectable": minimum_detectable_effect(known, number, asked, alpha),
            "half_width": half_width(known, number, asked),
        }
        for number in seeds
        for asked in questions
    ]
    per_run, per_answer = (
        next(cost for cost in costs if cost is not None)
        for costs in ((run_cost, pilot.run_seconds, RUN_COST), (answer_cost, pilot.answer_seconds, ANSWER_COST))
    )
    mix = cheapest(difference, known, per_run, per_answer, alpha) if difference else None
    return {
        "benchmark": pilot.benchmark,
        "pairs": pilot.pairs,
        "pilot_seeds": pilot.seeds,
        "pilot_questions": pilot.questions,
        "sd": {name: value**0.5 for name, value in asdict(known).items()},
        "plans": rows,
        "costs": {"run": per_run, "answer": per_answer},
        "cheapest": asdict(mix) if mix else None,
    }


def _asked(questions: str | None, pilot: Any) -> list[int]:
    if questions:
        return _numbers("--questions", questions, 2)
    return [pilot.questions] if pilot.questions else _numbers("--questions", QUESTIONS, 2)


def _numbers(option: str, text: str, least: int) -> list[int]:
    parts = [each.strip() for each in text.split(",")]
    if not all(each.isdecimal() and int(each) >= least for each in parts):
        raise UserError(f"{option} {text!r}: give whole numbers from {least}, such as {SEEDS}")
    return [int(each) for each in parts]


def _print(plan: dict[str, Any], tests: int, difference: float | None) -> None:
    family = f", corrected for {tests} comparisons" if tests > 1 else ""
    print_rows(
        ["seeds", "questions", f"detected with 80 %{family}", "half-width of interval"],
        [
            [row["seeds"], row["questions"], *(float(f"{row[name]:.3g}") for name in ("detectable", "half_width"))]
            for row in plan["plans"]
        ],
        title=plan["benchmark"],
    )
    parts = ", ".join(f"{name} {value:.3g}" for name, value in plan["sd"].items())
    print(f"Standard deviations of differences: {parts}.")
    if plan["pilot_seeds"] == 1:
        print("The pilot has one seed: how much training runs vary is unknown and left out.")
    if difference and plan["cheapest"]:
        best = plan["cheapest"]
        print(f"Cheapest for {difference:g}: {best['seeds']} seeds, {best['questions']} questions.")
    elif difference:
        print(f"No mix of up to 100 seeds detects a difference of {difference:g}.")
    print()
