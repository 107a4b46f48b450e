"""Options that methods on principles share."""

from dataclasses import dataclass
from typing import Any

from harness.experiment.search import BETA, LEARNING_RATE, Space
from sso.responses import PrincipleOptions

LOSS_SPACE: Space = {"learning_rate": LEARNING_RATE, "beta": BETA}


@dataclass(frozen=True)
class LossOptions(PrincipleOptions):
    """The base loss L_b and its settings (harness.training.losses.PairwiseLoss).

    loss: dpo, ipo, hinge, simpo, orpo, cpo, robust, sppo, apo-zero or apo-down.
    beta: how strongly the loss keeps the policy close to the reference.
    ipo_average: IPO compares averages of log-probabilities per token rather than sums.
    simpo_gamma: the margin that SimPO aims at.
    """

    loss: str = "dpo"
    beta: float = 0.2
    ipo_average: bool = True
    simpo_gamma: float = 0.5

    @property
    def base_loss(self) -> dict[str, Any]:
        """The settings of the base loss, by name."""
        names = ("loss", "beta", "ipo_average", "simpo_gamma")
        return {name: getattr(self, name) for name in names}
