"""DPO on pairs in which the longer reply is chosen: the control of a judge that rewards length."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, swapped
from harness.methods.base import Stage, Workbench
from harness.training.examples import Example
from harness.training.losses import PreferenceObjective


class LongestWins:
    """DPO towards the longer reply of each pair."""

    name = "longest-wins"
    summary = "control: DPO on pairs in which the longer reply is chosen"
    search_space = SPACE
    control_of = "dpo"

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="dpo", beta=options.beta)
        return [preference_stage(options, objective, longer_chosen)]

    def supervision(self, options: Options) -> str:
        return "length of the replies (control)"


def longer_chosen(workbench: Workbench, pair: Example) -> Example | None:
    """The pair with the reply of more tokens as the chosen one; None where both have as many."""
    chosen, rejected = (len(sequence.completion_ids) for sequence in pair.sequences)
    if chosen == rejected:
        workbench.discard("replies of equal length")
        return None
    return pair if chosen > rejected else swapped(pair)
