"""DPO on pairs whose labels are random: the control of what labels add."""

import random
from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, swapped
from harness.files import store
from harness.methods.base import Stage, Workbench
from harness.training.examples import Example
from harness.training.losses import PreferenceObjective


class RandomLabels:
    """DPO where a coin decides which reply of each pair is chosen."""

    name = "random-labels"
    summary = "control: DPO on pairs with labels at random"
    search_space = SPACE
    control_of = "dpo"

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="dpo", beta=options.beta)
        return [preference_stage(options, objective, by_coin)]

    def supervision(self, options: Options) -> str:
        return "random labels (control)"


def by_coin(workbench: Workbench, pair: Example) -> Example:
    """The pair in an order that the run's seed and its two replies decide, whichever of them was chosen."""
    replies = sorted(sequence.completion_ids for sequence in pair.sequences)
    key = [workbench.sampling.seed, pair.sequences[0].prompt_ids, replies]
    first = replies[random.Random(store.digest(key)).getrandbits(1)]
    return pair if pair.sequences[0].completion_ids == first else swapped(pair)
