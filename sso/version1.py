"""The first version of SSO: one weighted objective over six sequences per query, in several iterations."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.experiment.search import LogUniform, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example
from harness.types import Prompt
from harness.work import sequences
from sso.filtering import filter_responses
from sso.objective import WeightedObjective
from sso.options import LOSS_SPACE, LossOptions
from sso.responses import PAIR, TRIPLE, expected_kept, expected_work, sample_responses, writing_flops

PASSING = 0.07  # share of the usable queries that pass the filter, measured on the testbed


class SSOVersion1:
    """SSO, first version: each iteration samples new data from the current policy."""

    name = "sso-v1"
    summary = "the first version of SSO: a weighted objective on the policy's own pairs, in iterations"
    search_space: Space = {**LOSS_SPACE, "auxiliary": LogUniform(0.01, 1.0)}

    @dataclass(frozen=True)
    class Options(LossOptions):
        """Options of the first version.

        iterations: rounds of sampling and training, each with an equal share of the budget.
        auxiliary: weight of the auxiliary terms, g in the paper; 0 leaves their sequences out.
        weight: whether the weight W of a pair takes part.
        weight_form: "paper" weights the whole loss by W, "released" only the auxiliary terms (the authors' code).
        alpha: share of the chosen response in W.
        detach_weight: no gradient through W.
        filter: keep only queries whose responses obey their principles (in the authors' code; off in the paper).
        """

        iterations: int = 3
        auxiliary: float = 0.1
        weight: bool = True
        weight_form: str = "paper"
        alpha: float = 0.66
        detach_weight: bool = False
        filter: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.iterations < 1:
                raise UserError(f"iterations must be at least 1, not {self.iterations}")

    def stages(self, options: Options) -> list[Stage]:
        objective = WeightedObjective(
            **options.base_loss,
            auxiliary=options.auxiliary,
            weight=options.weight,
            weight_form=options.weight_form,
            alpha=options.alpha,
            detach_weight=options.detach_weight,
        )

        kinds = TRIPLE if options.auxiliary else PAIR

        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            sampled = sample_responses(workbench, prompts, options, kinds)
            if options.filter:
                sampled = filter_responses(workbench, sampled)
            return [Example(query.prompt.id, objective.select(query.tokens), query.record) for query in sampled]

        def expect(lengths: Lengths) -> QueryCost:
            both = (lengths.completion, lengths.completion)
            plain, steered = sequences(lengths.prompt, *both), sequences(lengths.prompt + lengths.system, *both)
            collected = expected_work(lengths, options, kinds)
            kept = expected_kept(lengths, len(kinds))
            if options.filter:
                collected += (plain + steered * 2) * kept
                kept *= PASSING
            trained = plain + steered * (objective.sequences / 2 - 1)
            return QueryCost(collected, trained, kept, writing_flops(lengths, options))

        share = 1 / options.iterations
        return [
            Stage(f"iteration-{number}", share, collect, expect, objective, options)
            for number in range(1, options.iterations + 1)
        ]

    def supervision(self, options: Options) -> str:
        return options.supervision
