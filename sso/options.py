"""Options that the methods on principles share."""

from dataclasses import dataclass

from harness.experiment.search import BETA, LEARNING_RATE
from sso.responses import PrincipleOptions

LOSS_SPACE = {"learning_rate": LEARNING_RATE, "beta": BETA}


@dataclass(frozen=True)
class LossOptions(PrincipleOptions):
    """The base loss L_b and its settings (harness.training.losses.PairwiseLoss)."""

    loss: str = "dpo"
    beta: float = 0.2
    ipo_average: bool = True
    simpo_gamma: float = 0.5

    @property
    def base_loss(self) -> dict:
        names = ("loss", "beta", "ipo_average", "simpo_gamma")
        return {name: getattr(self, name) for name in names}
