"""Supervised fine-tuning on y+: responses under good principles, learned without them (context distillation)."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.experiment.search import LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, TokenSequence
from harness.training.losses import SFTObjective
from harness.types import Prompt
from harness.work import sequences
from sso.responses import GOOD, KEPT, PrincipleOptions, expected_work, sample_responses, writing_flops


class SFT:
    """Cross entropy of y+ given x; the cheap control."""

    name = "sft"
    summary = "cross entropy on the policy's own responses under good principles"
    search_space: Space = {"learning_rate": LEARNING_RATE}

    @dataclass(frozen=True)
    class Options(PrincipleOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            sampled = sample_responses(workbench, prompts, options, GOOD)
            return [
                Example(query.prompt.id, (TokenSequence(query.tokens.plain, query.tokens.good_response),), query.record)
                for query in sampled
            ]

        def expect(lengths: Lengths) -> QueryCost:
            trained = sequences(lengths.prompt, lengths.completion)
            return QueryCost(expected_work(lengths, options, GOOD), trained, KEPT[1], writing_flops(lengths, options))

        return [Stage("policy", 1.0, collect, expect, SFTObjective(), options)]

    def supervision(self, options: Options) -> str:
        return options.supervision
