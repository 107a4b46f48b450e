"""Contrastive preference optimization (Xu et al. 2024, arXiv 2401.08417)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.errors import UserError
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class CPO:
    """-log sigmoid(beta * margin) without a reference, and cross entropy of the chosen."""

    name = "cpo"
    summary = "contrastive preference optimization: DPO without a reference, and SFT on the chosen"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of CPO.

        beta: scale of the difference of the log-probabilities.
        cpo_alpha: weight of the cross entropy of the chosen, a mean over tokens.
        """

        beta: float = 0.1
        cpo_alpha: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.cpo_alpha < 0:
                raise UserError(f"cpo_alpha must be at least 0, not {self.cpo_alpha}")

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="cpo", beta=options.beta, sft_weight=options.cpo_alpha)
        return [preference_stage(options, objective)]

    def supervision(self, options: Options) -> str:
        return supervision(options)
