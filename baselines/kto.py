"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306): replies that are good or bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.experiment.search import BETA, LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.training.losses import KTOObjective
from harness.types import Prompt, Reply, TokenIds
from harness.work import Work, sequences


class KTO:
    """1 - sigmoid(beta * (r(y) - z)) of good replies, 1 - sigmoid(beta * (z - r(y))) of bad ones."""

    name = "kto"
    summary = "Kahneman-Tversky optimization on replies that are labelled good or bad, or on both replies of pairs"
    search_space: Space = {"learning_rate": LEARNING_RATE, "beta": BETA}

    @dataclass(frozen=True)
    class Options(TrainingOptions):
        """Options of KTO.

        beta: how strongly the loss keeps the policy close to the reference.
        desirable_weight: weight of the losses of good replies.
        undesirable_weight: weight of the losses of bad replies.
        """

        beta: float = 0.2
        desirable_weight: float = 1.0
        undesirable_weight: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.beta <= 0:
                raise UserError(f"beta must be above 0, not {self.beta}")
            if min(self.desirable_weight, self.undesirable_weight) < 0:
                raise UserError("desirable_weight and undesirable_weight must be at least 0")
            if min(self.micro_batch_size, self.batch_size) < 2:
                raise UserError(
                    "micro_batch_size and batch_size must be at least 2: KTO estimates a divergence from the other "
                    "examples of a micro-batch"
                )

    def stages(self, options: Options) -> list[Stage]:
        objective = KTOObjective(options.beta, options.desirable_weight, options.undesirable_weight)
        return [Stage("policy", 1.0, collect, expect, objective, options, labelled=True, rows="labels")]

    def supervision(self, options: Options) -> str:
        return "labelled replies"


def expect(lengths: Lengths) -> QueryCost:
    """That of a pair, which makes two examples; of rows with one reply, twice as many are drawn."""
    return QueryCost(Work(), sequences(lengths.prompt, lengths.completion, lengths.completion), 2.0)


def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
    """An example of each labelled reply, with a reply to the prompt before it."""
    encode = workbench.engine.encode_replies
    encoded = [encode(prompt.chat, [reply for reply, _ in labelled(prompt)]) for prompt in prompts]
    examples = []
    for index, prompt in enumerate(prompts):
        query, replies = encoded[index]
        others = mismatched(encoded, index)
        if others is None:
            workbench.discard("no other prompt to estimate the divergence from", len(replies))
            continue
        for place, (reply, (text, good)) in enumerate(zip(replies, labelled(prompt), strict=True)):
            pair = TokenSequence(query, reply), TokenSequence(query, others[place % len(others)])
            record: dict[str, Any] = {**prompt.record, "completion": text, "label": good}
            examples.append(Example(f"{prompt.id}/{place}", pair, record, (1.0 if good else -1.0, 1.0)))
    return examples


def labelled(prompt: Prompt) -> list[tuple[Reply, bool]]:
    """The replies of a row, and whether each is good."""
    if prompt.completion is not None:
        return [(prompt.completion, bool(prompt.label))]
    chosen, rejected = prompt.pair
    return [(chosen, True), (rejected, False)]


def mismatched(encoded: Sequence[tuple[TokenIds, list[TokenIds]]], index: int) -> list[TokenIds] | None:
    """The replies to the nearest other prompt before this one, in a circle; None where all prompts are equal."""
    query = encoded[index][0]
    before = (encoded[index - step] for step in range(1, len(encoded)))
    return next((replies for other, replies in before if other != query), None)
