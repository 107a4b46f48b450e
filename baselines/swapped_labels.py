"""DPO on pairs with chosen and rejected exchanged: the control that must do worse than no training."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, swapped
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class SwappedLabels:
    """DPO towards the rejected reply of each pair."""

    name = "swapped-labels"
    summary = "control: DPO on pairs with chosen and rejected exchanged"
    search_space = SPACE
    control_of = "dpo"

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="dpo", beta=options.beta)
        return [preference_stage(options, objective, lambda _, pair: swapped(pair))]

    def supervision(self, options: Options) -> str:
        return "swapped labels (control)"
