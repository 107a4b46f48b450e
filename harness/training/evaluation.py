"""Held-out examples: their loss and metrics while a model trains, and of a model as it is."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.engines.logprobs import Reading, sequence_logprobs
from harness.training.dataset import Collator, ExampleData
from harness.training.examples import Objective
from harness.training.noise import without_noise
from harness.training.reference import ReferenceLogProbs


@dataclass(frozen=True)
class Evaluation:
    """Held-out examples, the objective that is computed on them, and log-probabilities under its reference (None where
    it needs none)."""

    data: ExampleData
    objective: Objective
    reference: ReferenceLogProbs | None


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
def evaluate(
    model: PreTrainedModel, evaluation: Evaluation, reading: Reading, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Return "loss" and the objective's values, each the mean over all examples.

    Args:
        model: inside `attend_packed`.
        batch_size: examples per forward pass.
    """
    model.eval()
    without_noise(model)
    data, objective, reference = evaluation.data, evaluation.objective, evaluation.reference
    collate = Collator(reference.totals if reference and objective.needs_reference else None)
    values: defaultdict[str, list[float]] = defaultdict(list)
    for start in range(0, len(data), batch_size):
        batch: dict[str, Any] = collate(
            [data.rows[index] for index in range(start, min(start + batch_size, len(data)))]
        )
        packed, shape = batch["packed"].to(device), (-1, objective.sequences)
        sums = sequence_logprobs(model, packed, reading)
        known = batch["reference"].to(device) if "reference" in batch else None
        losses, metrics = objective(sums.view(shape), known, packed.lengths.view(shape))
        for name, row in {"loss": losses, **metrics}.items():
            values[name] += row.tolist()
    return {name: fmean(row) for name, row in values.items()}
