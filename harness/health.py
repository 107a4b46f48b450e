"""Health of a training stage: the accuracy and probability of its pairs (the paper's figure 3), and warnings."""

from collections.abc import Iterable
from statistics import fmean

import numpy as np

from harness.judges.base import Judge
from harness.training.examples import Example
from harness.training.reference import ReferenceLogProbs

MOST_LOST_CHOSEN = 0.1  # nats a token that the chosen responses may lose
NOT_WRITTEN = "principles not written"  # the event
MOST_UNWRITTEN = 0.5  # share of queries
LEAST_FINISHED = 0.98  # share of queries whose completions all ended by themselves
LAST_UPDATES = 5  # whose mean is looked at


def stage_health(
    examples: Iterable[Example],
    reference: ReferenceLogProbs | None,
    collected: dict,
    judge: Judge | None,
    history: list[dict],
) -> dict:
    """What a stage made and how its training went.

    examples' records name "chosen" and "rejected" texts; the accuracy of pairs is the share in which the judge finds
    the chosen better (equal ones count half), where the judge can grade texts by itself (the testbed's can).
    Probabilities are those of the policy that training starts from: means over the pairs of exp(average log-probability
    of a token).

    Args:
        collected: "examples", and "discarded" and "events" by reason.
    """
    health = {name: collected[name] for name in ("examples", "discarded", "events")}
    asked = health["examples"] + sum(health["discarded"].values())
    health["finished"] = 1 - health["discarded"].get("unfinished", 0) / asked
    grade = getattr(judge, "quality", None)
    agreements, lengths = [], []
    for example in examples:
        lengths += [len(sequence.completion_ids) for sequence in example.sequences]
        if grade and "rejected" in example.record:
            agreements.append(_agreement(grade, example.record))
    health["completion_tokens"] = fmean(lengths)
    if agreements:
        health["pair_accuracy"] = fmean(agreements)
    if reference:
        probabilities = np.exp(reference.means).mean(axis=0).tolist()
        health |= dict(zip(("chosen_probability", "rejected_probability"), probabilities, strict=False))
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
    unwritten = health["events"].get(NOT_WRITTEN, 0)
    if unwritten > MOST_UNWRITTEN * (health["examples"] + sum(health["discarded"].values())):
        yield f"{unwritten} queries have drawn principles, because none could be read in what was written"
    if health["finished"] < LEAST_FINISHED:
        unfinished = health["discarded"]["unfinished"]
        yield f"{unfinished} queries, {1 - health['finished']:.0%}, had a completion that did not finish"
    ratios = [row["chosen_logratio"] for row in history[-LAST_UPDATES:] if "chosen_logratio" in row]
    if ratios and fmean(ratios) < -MOST_LOST_CHOSEN:
        yield f"chosen responses lost {-fmean(ratios):.2f} nats a token against the reference"
