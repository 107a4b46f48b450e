"""Online DPO in rounds: pairs of the current policy's replies, ranked by a judge or a reward model.

As iterative DPO (Xu et al. 2023, arXiv 2312.16682), and as Guo et al. 2024 (arXiv 2402.04792) but for two things: pairs
are sampled once per round rather than per update, and the reference is the policy that the round began with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.preference import KEPT_RANKED, SPACE, best_against_worst, pair_work
from baselines.ratings import RatedOptions, rate, rated_cost, sample_candidates
from harness.errors import UserError
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example
from harness.training.losses import PreferenceObjective
from harness.types import Prompt


class OnlineDPO:
    """DPO on the best over the worst of the policy's own replies, in rounds."""

    name = "online-dpo"
    summary = "DPO on the policy's own replies, ranked by the judge or a reward model, in rounds"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(RatedOptions):
        """Options of online DPO.

        rounds: of sampling, rating and training, each with an equal share of the budget.
        beta: how strongly the loss keeps the policy close to that of the round's start.
        """

        rounds: int = 3
        beta: float = 0.2

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.rounds < 1:
                raise UserError(f"rounds must be at least 1, not {self.rounds}")

    def stages(self, options: Options) -> list[Stage]:
        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            candidates = sample_candidates(workbench, prompts, options.candidates)
            return best_against_worst(workbench, prompts, candidates, rate(workbench, prompts, candidates, options))

        def expect(lengths: Lengths) -> QueryCost:
            return rated_cost(lengths, options, pair_work(lengths), KEPT_RANKED)

        objective, judged = PreferenceObjective(loss="dpo", beta=options.beta), not options.reward_model
        return [
            Stage(f"round-{number}", 1 / options.rounds, collect, expect, objective, options, judged=judged)
            for number in range(1, options.rounds + 1)
        ]

    def supervision(self, options: Options) -> str:
        return options.supervision
