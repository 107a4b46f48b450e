"""Supervised fine-tuning on y+: responses under good principles, learned without them (context distillation)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.methods import Lengths, Prompt, QueryCost, Stage, Workbench
from harness.training.examples import Example
from harness.training.losses import SFTObjective
from sso.responses import PrincipleOptions, collect_pairs, expect_pairs


class SFT:
    """Cross entropy on the responses that pbaa calls chosen; the cheap control."""

    name = "sft"
    summary = "cross entropy on the policy's own responses under good principles"

    @dataclass(frozen=True)
    class Options(PrincipleOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        def collect(bench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            pairs = collect_pairs(bench, prompts, options)
            return [Example(pair.id, pair.sequences[:1], pair.record) for pair in pairs]

        def expect(lengths: Lengths) -> QueryCost:
            pairs = expect_pairs(lengths, options)
            return replace(pairs, trained=pairs.trained / 2)

        return [Stage("policy", 1.0, collect, expect, SFTObjective(), options)]

    def supervision(self, options: Options) -> str:
        return f"principles ({options.principles})"
