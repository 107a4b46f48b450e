"""Direct preference optimization (Rafailov et al. 2023)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class DPO:
    """-log sigmoid(beta * margin) on labelled or judged pairs."""

    name = "dpo"
    summary = "direct preference optimization on labelled pairs, or on pairs ranked by a judge"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        return [preference_stage(options, PreferenceObjective(loss="dpo", beta=options.beta))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
