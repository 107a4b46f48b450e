"""Self-play preference optimization (Wu et al. 2024, arXiv 2405.00675), in its form for hard labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class SPPO:
    """(r(w) - 1 / (2 beta))^2 + (r(l) + 1 / (2 beta))^2 on labelled or judged pairs."""

    name = "sppo"
    summary = "self-play preference optimization: log-ratios are drawn to 1/(2 beta) and -1/(2 beta)"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        real: ClassVar[Mapping[str, Any]] = {"beta": 0.001}  # of the authors, eta = 1000

    def stages(self, options: Options) -> list[Stage]:
        return [preference_stage(options, PreferenceObjective(loss="sppo", beta=options.beta))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
