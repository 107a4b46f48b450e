"""Identity preference optimization (Azar et al. 2024)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective


class IPO:
    """(margin - 1 / (2 beta))^2 on labelled or judged pairs."""

    name = "ipo"
    summary = "identity preference optimization on labelled pairs, or on pairs ranked by a judge"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of IPO. average: average log-probabilities per token (the authors' advice) rather than sums (the
        paper's formula)."""

        average: bool = True

    def stages(self, options: Options) -> list[Stage]:
        objective = PreferenceObjective(loss="ipo", beta=options.beta, ipo_average=options.average)
        return [preference_stage(options, objective)]

    def supervision(self, options: Options) -> str:
        return f"{supervision(options)}; {'average' if options.average else 'sum'} log-probabilities"
