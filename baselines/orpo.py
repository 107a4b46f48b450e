"""Odds ratio preference optimization (Hong, Lee and Thorne 2024, arXiv 2403.07691)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class ORPO:
    """Cross entropy of the chosen, less beta * log sigmoid of the log odds ratio; without a reference."""

    name = "orpo"
    summary = "odds ratio preference optimization: SFT on the chosen and an odds ratio, without a reference"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of ORPO. beta: weight of the odds ratio beside the cross entropy (lambda in the paper)."""

        beta: float = 0.1

    def stages(self, options: Options) -> list[Stage]:
        return [preference_stage(options, PreferenceObjective(loss="orpo", beta=options.beta))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
