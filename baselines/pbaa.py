"""Principle-based automated alignment: pairs straight from the policy under good and bad principles.

This is SSO's control: the same pairs without the trained data generator (paper, section 5).
"""

from dataclasses import dataclass

from harness.methods.base import Stage
from harness.training.losses import PreferenceObjective
from sso.options import LOSS_SPACE, LossOptions
from sso.responses import collect_pairs, expect_pairs


class PBAA:
    """A preference loss on x, of y+ over y-."""

    name = "pbaa"
    summary = "pairs from the policy itself under good and bad principles (the control of SSO)"
    search_space = LOSS_SPACE

    @dataclass(frozen=True)
    class Options(LossOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        return [
            Stage(
                "policy",
                1.0,
                lambda workbench, prompts: collect_pairs(workbench, prompts, options),
                lambda lengths: expect_pairs(lengths, options),
                PreferenceObjective(**options.base_loss),
                options,
            )
        ]

    def supervision(self, options: Options) -> str:
        return options.supervision
