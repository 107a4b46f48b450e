"""Measures of training that the gate compares besides the scores.

A fault in training need not show in the scores of a small run, but it changes these: how long texts are in tokens, how
likely they are under the model, and how losses and gradients begin and end.
"""

from collections import Counter
from collections.abc import Iterator
from statistics import fmean, median
from typing import Any

from harness.budget import Ledger
from harness.files import store
from harness.files.folders import ArmFolder

FIRST, LAST = 5, 10  # updates for a median; the gradient of a single one can have any size
AT_FIRST = ("loss", "grad_norm", "chosen_logp", "rejected_logp")  # without margins: they are still 0 up to rounding
AT_LAST = ("loss", "grad_norm", "accuracy", "margin", "chosen_logp", "rejected_logp", "chosen_logratio")
HEALTH = ("finished", "pair_accuracy", "chosen_probability", "rejected_probability")
MEANING = {  # measure -> where to look when it differs from the reference
    "tokens of a prompt": "the chat template or the tokenizer",
    "tokens of a first completion": "where completions begin and end, how they are sampled",
    "tokens of a second completion": "where completions begin and end, how they are sampled",
    "ends with the stop token": "the EOS token of completions",
    "learning rate, largest": "the learning rate or its schedule",
    "loss, first updates": "the loss, or the reference that it starts from",
    "grad_norm, first updates": "the scale of the loss: sums for averages, tokens that should not count",
    "chosen_logp, first updates": "which tokens count in a log-probability",
    "rejected_logp, first updates": "which tokens count in a log-probability",
    "loss, last updates": "what training optimizes: its loss, its pairs, a reference that is not frozen",
    "accuracy, last updates": "what training optimizes: its loss, its pairs, a reference that is not frozen",
    "margin, last updates": "what training optimizes: its loss, its pairs, a reference that is not frozen",
    "chosen_logratio, last updates": "what training optimizes: its loss, its pairs, a reference that is not frozen",
    "pair_accuracy": "which response of a pair is the chosen one, and how pairs are made",
    "chosen_probability": "which tokens count in a log-probability, the reference model",
    "rejected_probability": "which tokens count in a log-probability, the reference model",
    "updates": "how the budget is spent",
    "trained tokens an update": "which tokens are trained on, how the budget is spent",
}


def of_arm(folder: ArmFolder) -> dict[str, float]:
    """The measures of an arm, "STAGE: NAME" -> number; empty for an arm that was not trained."""
    found: dict[str, float] = {}
    for file in folder.histories():
        stage = file.stem
        health = store.read_json(folder.health(stage))
        found |= {f"{stage}: {name}": value for name, value in _of_pairs(folder, stage)}
        found |= {f"{stage}: {name}": value for name, value in _of_updates(store.read_jsonl(file))}
        found |= {f"{stage}: {name}": health[name] for name in HEALTH if health.get(name) is not None}
    trained = Ledger.from_dict(store.read_json(folder.ledger)).roles.get("train")
    if trained:
        found["updates"] = float(trained.updates)
        found["trained tokens an update"] = trained.trained_tokens / trained.updates
    return found


def meaning(measure: str) -> str | None:
    """The usual cause when this measure differs from the reference; None where it is not known."""
    return MEANING.get(measure.rpartition(": ")[2])


def _of_pairs(folder: ArmFolder, stage: str) -> Iterator[tuple[str, float]]:
    rows = [row["sequences"] for row in store.iterate_jsonl(folder.preferences(stage))]
    yield "tokens of a prompt", fmean(len(row[0]["prompt_ids"]) for row in rows)
    for place, name in enumerate(("first", "second")[: len(rows[0])]):
        yield f"tokens of a {name} completion", fmean(len(row[place]["completion_ids"]) for row in rows)
    ends = Counter(each["completion_ids"][-1] for row in rows for each in row)
    yield "ends with the stop token", max(ends.values()) / ends.total()


def _of_updates(history: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    yield "learning rate, largest", max(row["learning_rate"] for row in history)
    parts = ((AT_FIRST, "first", history[:FIRST]), (AT_LAST, "last", history[-LAST:]))
    for names, when, updates in parts:
        for name in names:
            if name in history[0]:
                yield f"{name}, {when} updates", median(row[name] for row in updates)
