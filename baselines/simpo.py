"""Simple preference optimization (Meng, Xia and Chen 2024, arXiv 2405.14734)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from baselines.preference import PreferenceOptions, preference_stage, supervision
from harness.errors import UserError
from harness.experiment.search import LEARNING_RATE, LogUniform, Space, Uniform
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class SimPO:
    """-log sigmoid(beta * margin - gamma) of average log-probabilities, without a reference."""

    name = "simpo"
    summary = "simple preference optimization: DPO on average log-probabilities, with a margin and without a reference"
    search_space: Space = {
        "learning_rate": LEARNING_RATE,
        "beta": LogUniform(1.0, 10.0),
        "simpo_gamma": Uniform(0.0, 3.0),
    }

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of SimPO.

        beta: scale of the difference of the average log-probabilities.
        simpo_gamma: the margin that beta times this difference aims at.
        """

        beta: float = 2.0
        simpo_gamma: float = 1.0
        real: ClassVar[Mapping[str, Any]] = {"beta": 2.0}  # as the authors, at 7 billion parameters

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.simpo_gamma < 0:
                raise UserError(f"simpo_gamma must be at least 0, not {self.simpo_gamma}")

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="simpo", beta=options.beta, simpo_gamma=options.simpo_gamma)
        return [preference_stage(options, objective)]

    def supervision(self, options: Options) -> str:
        return supervision(options)
