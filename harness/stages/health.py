"""Health of a training stage: the accuracy and probability of its pairs (the paper's figure 3), and warnings."""

from collections.abc import Iterable, Iterator
from math import inf
from statistics import fmean
from typing import Any, TypedDict

import numpy as np

from harness.judges.base import GradingJudge, Judge
from harness.judges.pair_accuracy import graded_accuracy, judged_accuracy
from harness.methods.base import NOT_WRITTEN
from harness.methods.prompts import MOST_EPOCHS
from harness.training.examples import Example
from harness.training.reference import ReferenceLogProbs

MOST_LOST_CHOSEN = 0.1  # nats per token that the chosen responses may lose
MOST_UNWRITTEN = 0.5  # share of queries
LEAST_FINISHED = 0.98  # share of queries whose completions all ended by themselves
LAST_UPDATES = 5  # how many of them the mean log-ratio is taken over


class Collected(TypedDict):
    """What collecting the examples of a stage leaves beside them.

    examples: how many there are.
    discarded, events: counts by reason.
    drawn: how many prompts were drawn up to this stage's end.
    epochs: passes over the prompts up to there.
    sources: of a mixture, source -> how many prompts were drawn from it up to there.
    ledger: as `Ledger.as_dict` makes it.
    """

    examples: int
    discarded: dict[str, int]
    events: dict[str, int]
    drawn: int
    epochs: float
    sources: dict[str, int]
    ledger: dict[str, Any]


def stage_health(
    examples: Iterable[Example],
    reference: ReferenceLogProbs | None,
    collected: Collected,
    judge: Judge | None,
    check_pairs: int,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a stage made, and how its training went.

    The accuracy of the pairs is that of all pairs where the judge is a program that grades texts (as the testbed's is),
    and of the first check_pairs where it has to be asked. Probabilities are those under the policy that training starts
    from: means over the pairs of exp(average log-probability of a token).

    Args:
        examples: their records have "prompt", "chosen" and "rejected" where they are pairs.
        history: one row per update.
    """
    asked = collected["examples"] + sum(collected["discarded"].values())
    health: dict[str, Any] = {
        "examples": collected["examples"],
        "discarded": collected["discarded"],
        "events": collected["events"],
        "epochs": collected["epochs"],
        **({"sources": collected["sources"]} if collected["sources"] else {}),
        "finished": 1 - collected["discarded"].get("unfinished", 0) / asked,
    }
    wanted = inf if isinstance(judge, GradingJudge) else check_pairs if judge else 0
    pairs: list[tuple[str, dict[str, Any]]] = []
    lengths: list[int] = []
    chosen = False
    for example in examples:
        chosen |= "chosen" in example.record
        lengths += [len(sequence.completion_ids) for sequence in example.sequences]
        if "rejected" in example.record and len(pairs) < wanted:
            pairs.append((example.id, example.record))
    health["completion_tokens"] = fmean(lengths)
    if pairs and isinstance(judge, GradingJudge):
        health |= graded_accuracy(judge.quality, pairs)
    elif pairs and judge:
        health |= judged_accuracy(judge, pairs)
    if reference and chosen:
        probabilities = np.exp(reference.means).mean(axis=0).tolist()
        health |= dict(zip(("chosen_probability", "rejected_probability"), probabilities, strict=False))
    if history:
        health["first_loss"], health["last_loss"] = history[0]["loss"], history[-1]["loss"]
    health["warnings"] = list(_warnings(health, history))
    return health


def _warnings(health: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
    accuracy = health.get("pair_accuracy")
    if accuracy is not None and accuracy < 0.5:
        yield f"the judge prefers the rejected responses: pair accuracy {accuracy:.2f}"
    unwritten = health["events"].get(NOT_WRITTEN, 0)
    if unwritten > MOST_UNWRITTEN * (health["examples"] + sum(health["discarded"].values())):
        yield f"{unwritten} queries use drawn principles, because none could be read in what was written"
    if health["finished"] < LEAST_FINISHED:
        unfinished = health["discarded"]["unfinished"]
        yield f"{unfinished} queries, {1 - health['finished']:.0%}, had a completion that did not finish"
    if health["epochs"] > MOST_EPOCHS:
        yield f"prompts were drawn {health['epochs']:.1f} times over: give more prompts, or a smaller budget"
    ratios = [row["chosen_logratio"] for row in history[-LAST_UPDATES:] if "chosen_logratio" in row]
    if ratios and fmean(ratios) < -MOST_LOST_CHOSEN:
        yield f"chosen responses lost {-fmean(ratios):.2f} nats per token against the reference"
