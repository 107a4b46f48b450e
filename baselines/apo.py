"""Anchored preference optimization (D'Oosterlinck et al. 2024, arXiv 2408.06266)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.errors import UserError
from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective

VARIANTS = ("zero", "down")


class APO:
    """The losses APO-zero and APO-down on labelled or judged pairs."""

    name = "apo"
    summary = "anchored preference optimization: says whether the chosen are to become likelier"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of APO.

        variant: "zero" where the chosen are better than the policy's own replies, and are to become likelier; "down"
            where they are worse, and both are to become less likely.
        """

        variant: str = "zero"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.variant not in VARIANTS:
                raise UserError(f"variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")

    def stages(self, options: Options) -> list[Stage]:
        return [preference_stage(options, PreferenceObjective(loss=f"apo-{options.variant}", beta=options.beta))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
