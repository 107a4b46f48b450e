"""Sequence likelihood calibration (Zhao et al. 2023, arXiv 2305.10425), in the form of RSO (Liu et al. 2024)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class Hinge:
    """max(0, 1 - beta * margin) on labelled or judged pairs."""

    name = "hinge"
    summary = "the hinge loss of SLiC on log-ratios to the reference"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        return [preference_stage(options, PreferenceObjective(loss="hinge", beta=options.beta))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
