"""SSO as in the paper (arXiv 2410.17131, section 4): trains a data generator, then the policy on its pairs.

1. Good and bad principles for each query.  2. Responses of the policy under them.  3. Training with L_SSO = L+ + L-
turns a copy of the policy into the data generator.  4. The policy is trained with the base loss on the generator's
pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.experiment.search import LogUniform, Space, Uniform
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example
from harness.training.losses import PreferenceObjective
from harness.types import Prompt
from harness.work import sequences
from sso.objective import GeneratorObjective
from sso.options import LOSS_SPACE, LossOptions
from sso.responses import (
    PAIR,
    TRIPLE,
    collect_pairs,
    expect_pairs,
    expected_kept,
    expected_work,
    sample_responses,
    writing_flops,
)


class SSO:
    """Self-Steering Optimization."""

    name = "sso"
    summary = "a trained data generator makes the pairs; the policy is trained on them (the paper's version)"
    search_space: Space = {**LOSS_SPACE, "gamma": LogUniform(0.01, 1.0), "generator_share": Uniform(0.25, 0.75)}

    @dataclass(frozen=True)
    class Options(LossOptions):
        """Options of SSO.

        gamma: weight of the SFT terms in the generator's loss.
        use_positive: whether L+ takes part in the generator's loss.
        use_negative: whether L- takes part in the generator's loss.
        negative: the pair of L-: "paper" (yo over y+) or "alternative" (y- over y+).
        generator_share: share of the budget that makes the generator.
        """

        gamma: float = 0.1
        use_positive: bool = True
        use_negative: bool = True
        negative: str = "paper"
        generator_share: float = 0.5

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 < self.generator_share < 1:
                raise UserError(f"generator_share must be between 0 and 1, not {self.generator_share}")

    def stages(self, options: Options) -> list[Stage]:
        steer = GeneratorObjective(
            **options.base_loss,
            gamma=options.gamma,
            use_positive=options.use_positive,
            use_negative=options.use_negative,
            negative=options.negative,
        )

        kinds = TRIPLE if options.use_negative and options.negative == "paper" else PAIR

        def collect_queries(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            sampled = sample_responses(workbench, prompts, options, kinds)
            return [Example(query.prompt.id, steer.select(query.tokens), query.record) for query in sampled]

        def expect_queries(lengths: Lengths) -> QueryCost:
            pair = sequences(lengths.prompt + lengths.system, lengths.completion, lengths.completion)
            collected = expected_work(lengths, options, kinds)
            trained = pair * (steer.sequences / 2)
            kept = expected_kept(lengths, len(kinds))
            return QueryCost(collected, trained, kept, writing_flops(lengths, options))

        return [
            Stage(
                "generator", options.generator_share, collect_queries, expect_queries, steer, options, generator="base"
            ),
            Stage(
                "policy",
                1 - options.generator_share,
                lambda workbench, prompts: collect_pairs(workbench, prompts, options),
                lambda lengths: expect_pairs(lengths, options),
                PreferenceObjective(**options.base_loss),
                options,
                generator="current",
                start="base",
            ),
        ]

    def supervision(self, options: Options) -> str:
        return options.supervision
