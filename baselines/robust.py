"""Robust DPO for noisy labels (Chowdhury, Kini and Natarajan 2024, arXiv 2403.00409)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class Robust:
    """DPO where a share of the labels is taken to be flipped."""

    name = "robust"
    summary = "DPO for labels of which a share is wrong"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of robust DPO. label_smoothing: share of the labels that are taken to be flipped, below 0.5."""

        label_smoothing: float = 0.1

    def stages(self, options: Options) -> list[Stage]:
        smoothing = options.label_smoothing
        objective = PreferenceObjective(loss="robust", beta=options.beta, label_smoothing=smoothing)
        return [preference_stage(options, objective)]

    def supervision(self, options: Options) -> str:
        return supervision(options)
