"""Health of a training stage: the accuracy and probability of its pairs (the paper's figure 3), and warnings."""

from collections.abc import Sequence
from math import exp
from statistics import fmean

from harness.engines.base import LogProb
from harness.methods import Workbench
from harness.training.examples import Example

MOST_LOST_CHOSEN = 0.1  # nats a token that the chosen responses may lose
LAST_UPDATES = 5  # whose mean is looked at


def stage_health(
    examples: Sequence[Example], reference: Sequence[tuple[LogProb, ...]] | None, bench: Workbench, history: list[dict]
) -> dict:
    """What a stage made and how its training went.

    examples' records name "chosen" and "rejected" texts; the accuracy of pairs is the share in which the judge finds
    the chosen better (equal ones count half), where the judge can grade texts by itself (the testbed's can).
    """
    health = {"examples": len(examples), "discarded": dict(bench.discarded), "events": dict(bench.events)}
    grade = getattr(bench.judge, "quality", None)
    pairs = [example.record for example in examples if "rejected" in example.record]
    if grade and pairs:
        health["pair_accuracy"] = fmean(_agreement(grade, record) for record in pairs)
    if reference:
        health["chosen_probability"] = fmean(exp(row[0].mean) for row in reference)
        if len(reference[0]) > 1:
            health["rejected_probability"] = fmean(exp(row[1].mean) for row in reference)
    if history:
        health["first_loss"], health["last_loss"] = history[0]["loss"], history[-1]["loss"]
    health["warnings"] = list(_warnings(health, history))
    return health


def _agreement(grade, record: dict) -> float:
    question = record["prompt"][-1]["content"]
    chosen, rejected = grade(question, record["chosen"]), grade(question, record["rejected"])
    if chosen is None or rejected is None or chosen == rejected:
        return 0.5
    return float(chosen > rejected)


def _warnings(health: dict, history: list[dict]):
    if health.get("pair_accuracy", 1.0) < 0.5:
        yield f"the judge prefers the rejected responses: pair accuracy {health['pair_accuracy']:.2f}"
    finished = health["examples"] + sum(health["discarded"].values())
    if health["discarded"].get("unfinished", 0) > 0.02 * finished:
        yield f"{health['discarded']['unfinished']} of {finished} queries had a completion that did not finish"
    ratios = [row["chosen_logratio"] for row in history[-LAST_UPDATES:] if "chosen_logratio" in row]
    if ratios and fmean(ratios) < -MOST_LOST_CHOSEN:
        yield f"chosen responses lost {-fmean(ratios):.2f} nats a token against the reference"
