"""Supervised fine-tuning: on y+, responses under good principles that are learned without them (context distillation),
or on demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.experiment.search import LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, TokenSequence
from harness.training.losses import SFTObjective
from harness.types import Prompt
from harness.work import Work, sequences
from sso.responses import GOOD, PrincipleOptions, expected_kept, expected_work, sample_responses, writing_flops

SOURCES = ("principles", "demonstrations")


class SFT:
    """Cross entropy of y+ given x; the cheap control."""

    name = "sft"
    summary = "cross entropy on the policy's own responses under good principles, or on demonstrations"
    search_space: Space = {"learning_rate": LEARNING_RATE}

    @dataclass(frozen=True)
    class Options(PrincipleOptions):
        """Options of SFT.

        data: "principles" (responses of the policy) or "demonstrations" (the chosen reply of labelled pairs, or the
            completion of rows with one).
        """

        data: str = "principles"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.data not in SOURCES:
                raise UserError(f"data must be one of {', '.join(SOURCES)}, not {self.data!r}")

    def stages(self, options: Options) -> list[Stage]:
        if options.data == "demonstrations":
            return [
                Stage(
                    *("policy", 1.0, _demonstrations, _expect_demonstrations, SFTObjective(), options),
                    labelled=True,
                    rows="demonstrations",
                )
            ]

        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            sampled = sample_responses(workbench, prompts, options, GOOD)
            return [
                Example(query.prompt.id, (TokenSequence(query.tokens.plain, query.tokens.good_response),), query.record)
                for query in sampled
            ]

        def expect(lengths: Lengths) -> QueryCost:
            trained = sequences(lengths.prompt, lengths.completion)
            kept = expected_kept(lengths, 1)
            return QueryCost(expected_work(lengths, options, GOOD), trained, kept, writing_flops(lengths, options))

        return [Stage("policy", 1.0, collect, expect, SFTObjective(), options)]

    def supervision(self, options: Options) -> str:
        return "demonstrations" if options.data == "demonstrations" else options.supervision


def _demonstrations(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
    examples = []
    for prompt in prompts:
        reply = prompt.chosen if prompt.completion is None else prompt.completion
        if reply is None:
            raise ValueError(f"prompt {prompt.id} has no reply")
        if prompt.label is False:
            workbench.discard("labelled as a bad reply")
            continue
        query, (ids,) = workbench.engine.encode_replies(prompt.chat, [reply])
        examples.append(Example(prompt.id, (TokenSequence(query, ids),), {**prompt.record, "chosen": reply}))
    return examples


def _expect_demonstrations(lengths: Lengths) -> QueryCost:
    return QueryCost(Work(), sequences(lengths.prompt, lengths.completion), 1.0)
