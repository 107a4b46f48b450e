"""Preference losses: pure functions of log-probabilities, and the objectives built from them.

Symbols: l(y) the log-probability of a completion under the policy in nats, r(y) = l(y) - l_ref(y) its log-ratio to the
reference, w the chosen and l the rejected completion. "Average" divides a sum by the number of completion tokens.
Shapes are (B,) unless stated otherwise.

torch is imported only where a loss is computed: listing methods names their objectives and must stay fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError, unknown_name
from harness.training.examples import ReferenceSync

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_EPSILON = 2.0**-23


def dpo(margin: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * margin), margin = r(w) - r(l) of sums (Rafailov et al. 2023, equation 7)."""
    return -_log_sigmoid(beta * margin)


def ipo(margin: Tensor, beta: float) -> Tensor:
    """(margin - 1 / (2 beta))^2, margin = r(w) - r(l) (Azar et al. 2024, equation 17, tau = beta).

    The equation uses sums; its authors advise averages, which TRL uses too.
    """
    return (margin - 1 / (2 * beta)) ** 2


def hinge(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta * margin), margin = r(w) - r(l) of sums (SLiC, Zhao et al. 2023, in the form "hinge-norm" of RSO,
    Liu et al. 2024; "hinge" in TRL)."""
    return (1 - beta * margin).relu()


def simpo(margin: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta * margin - gamma), margin = l(w) - l(l) of averages (Meng et al. 2024, equation 6)."""
    return -_log_sigmoid(beta * margin - gamma)


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-l(w) - beta * log sigmoid(log odds(w) - log odds(l)) with odds = p / (1 - p), p the exponential of the average
    (Hong et al. 2024, equations 6 and 7; beta is their lambda).

    Args:
        chosen, rejected: averages, below 0.
    """
    log_odds = (chosen - rejected) - (_log_one_minus_exp(chosen) - _log_one_minus_exp(rejected))
    return sft(chosen) - beta * _log_sigmoid(log_odds)


def cpo(margin: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * margin), margin = l(w) - l(l) of sums (Xu et al. 2024, arXiv 2401.08417, L_prefer)."""
    return -_log_sigmoid(beta * margin)


def robust(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """[(1 - e) dpo(margin) - e dpo(-margin)] / (1 - 2 e), an unbiased estimate of DPO's loss where a share e of the
    labels is flipped (Chowdhury et al. 2024, arXiv 2403.00409; "robust" in TRL).

    Args:
        label_smoothing: e, below 0.5.
    """
    kept, flipped = dpo(margin, beta), dpo(-margin, beta)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def sppo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(r(w) - 1 / (2 beta))^2 + (r(l) + 1 / (2 beta))^2 of sums (Wu et al. 2024, arXiv 2405.00675, equation 4.7, with
    eta = 1 / beta and probabilities 1 and 0 of winning; "sppo_hard" in TRL)."""
    target = 1 / (2 * beta)
    return (chosen - target) ** 2 + (rejected + target) ** 2


def apo_zero(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """[1 - sigmoid(beta r(w))] + sigmoid(beta r(l)) of sums: the chosen become likelier, the rejected less likely
    (D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7)."""
    return 1 - (beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def apo_down(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """sigmoid(beta r(w)) + [1 - sigmoid(beta (r(w) - r(l)))] of sums: both become less likely, the rejected more so
    (D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 8)."""
    return (beta * chosen).sigmoid() + 1 - (beta * (chosen - rejected)).sigmoid()


def _log_one_minus_exp(value: Tensor) -> Tensor:
    """log(1 - exp(value)) for value < 0, clamped because a probability that rounds to 1 has an infinite gradient."""
    return (-value.clamp(max=-FLOAT32_EPSILON).expm1()).log()


def _log_sigmoid(value: Tensor) -> Tensor:
    from torch.nn.functional import logsigmoid

    return logsigmoid(value)


def sft(chosen: Tensor) -> Tensor:
    """Mean negative log-likelihood per token, -l(w) of averages."""
    return -chosen


def kto(ratio: Tensor, divergence: Tensor, label: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta * label * (r(y) - z)) of sums (Ethayarajh et al. 2024, arXiv 2402.01306, section 4).

    Args:
        divergence: z, a scalar estimate of KL(policy || reference), at least 0.
        label: 1 for a good completion, -1 for a bad one.
    """
    return 1 - (beta * label * (ratio - divergence)).sigmoid()


@dataclass(frozen=True)
class LossType:
    """What a loss is computed from.

    needs_reference: log-ratios to the reference rather than the policy's log-probabilities alone.
    uses_average: averages over tokens rather than sums.
    compute: takes (chosen, rejected) scores of that kind and the settings, returns losses.
    """

    needs_reference: bool
    uses_average: bool
    compute: Callable[[Tensor, Tensor, PairwiseLoss], Tensor]


LOSSES = {
    "dpo": LossType(True, False, lambda chosen, rejected, loss: dpo(chosen - rejected, loss.beta)),
    "ipo": LossType(True, True, lambda chosen, rejected, loss: ipo(chosen - rejected, loss.beta)),
    "hinge": LossType(True, False, lambda chosen, rejected, loss: hinge(chosen - rejected, loss.beta)),
    "simpo": LossType(
        False, True, lambda chosen, rejected, loss: simpo(chosen - rejected, loss.beta, loss.simpo_gamma)
    ),
    "orpo": LossType(False, True, lambda chosen, rejected, loss: orpo(chosen, rejected, loss.beta)),
    "cpo": LossType(False, False, lambda chosen, rejected, loss: cpo(chosen - rejected, loss.beta)),
    "robust": LossType(
        True, False, lambda chosen, rejected, loss: robust(chosen - rejected, loss.beta, loss.label_smoothing)
    ),
    "sppo": LossType(True, False, lambda chosen, rejected, loss: sppo(chosen, rejected, loss.beta)),
    "apo-zero": LossType(True, False, lambda chosen, rejected, loss: apo_zero(chosen, rejected, loss.beta)),
    "apo-down": LossType(True, False, lambda chosen, rejected, loss: apo_down(chosen, rejected, loss.beta)),
}


@dataclass(frozen=True, kw_only=True)
class PairwiseLoss:
    """A preference loss with its settings.

    loss: a name in LOSSES.
    ipo_average: IPO of averages (its authors' advice, and TRL's form) rather than of sums (the paper's formula).
    label_smoothing: share of flipped labels that "robust" expects.
    """

    loss: str = "dpo"
    beta: float = 0.1
    ipo_average: bool = True
    simpo_gamma: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown_name("loss", self.loss, LOSSES)
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, not {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"label_smoothing must be at least 0 and below 0.5, not {self.label_smoothing}")

    @property
    def needs_reference(self) -> bool:
        return LOSSES[self.loss].needs_reference

    @property
    def uses_average(self) -> bool:
        return self.ipo_average if self.loss == "ipo" else LOSSES[self.loss].uses_average

    def scores(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Tensor:
        """What the loss compares, in nats (averages: nats per token).

        Args:
            policy, reference: sums of completion log-probabilities; reference may be None where it is not needed.
            lengths: numbers of completion tokens. All have the same shape, which may be any.
        """
        scores = policy - reference if self.needs_reference else policy
        return scores / lengths if self.uses_average else scores

    def pair_losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Tensor:
        """(B,) losses of pairs; the arguments are those of `scores`, (B, 2) with the chosen first."""
        chosen, rejected = self.scores(policy, reference, lengths).unbind(dim=1)
        return LOSSES[self.loss].compute(chosen, rejected, self)

    def pair_metrics(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> dict[str, Tensor]:
        """(B,) values to log: the implicit reward's margin (beta times the difference of the scores) and whether it is
        positive, the average log-probabilities of chosen and rejected under the policy, and by how much that of the
        chosen exceeds the reference's."""
        chosen, rejected = self.scores(policy, reference, lengths).detach().unbind(dim=1)
        margin = self.beta * (chosen - rejected)
        chosen_logp, rejected_logp = (policy / lengths).detach().unbind(dim=1)
        metrics = {
            "margin": margin,
            "accuracy": (margin > 0).to(margin.dtype),
            "chosen_logp": chosen_logp,
            "rejected_logp": rejected_logp,
        }
        if self.needs_reference and reference is not None:
            metrics["chosen_logratio"] = chosen_logp - reference[:, 0] / lengths[:, 0]
        return metrics


@dataclass(frozen=True, kw_only=True)
class PreferenceObjective(PairwiseLoss):
    """A preference loss on (chosen, rejected), plus `sft_weight` times the SFT loss of the chosen; k = 2.

    sync: how the reference follows the policy; None where it stays.
    """

    sft_weight: float = 0.0
    sync: ReferenceSync | None = None

    @property
    def sequences(self) -> int:
        return 2

    def __call__(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.pair_losses(policy, reference, lengths)
        if self.sft_weight:
            losses = losses + self.sft_weight * sft(policy[:, 0] / lengths[:, 0])
        return losses, self.pair_metrics(policy, reference, lengths)


@dataclass(frozen=True)
class SFTObjective:
    """Supervised fine-tuning on completions; k = 1. All examples weigh the same, whatever their length."""

    sequences = 1
    needs_reference = False

    def __call__(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logps = policy[:, 0] / lengths[:, 0]
        return sft(logps), {"chosen_logp": logps.detach()}


@dataclass(frozen=True)
class KTOObjective:
    """KTO; k = 2: the completion, and the completion of another prompt, from which the divergence is estimated.

    The divergence is that of a micro-batch, as in TRL: the mean log-ratio of its mismatched completions, at least 0,
    without gradient. Targets are the label (1 or -1) and 1.
    """

    sequences = 2
    needs_reference = True
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __call__(
        self, policy: Tensor, reference: Tensor | None, lengths: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if reference is None or targets is None:
            raise ValueError("KTO needs log-probabilities of the reference, and labels")
        ratios, mismatched = (policy - reference).unbind(dim=1)
        label, counted = targets.unbind(dim=1)
        divergence = ((mismatched.detach() * counted).sum() / counted.sum().clamp(min=1)).clamp(min=0)
        weights = self.desirable_weight * (label > 0) + self.undesirable_weight * (label < 0)
        margin = (self.beta * label * (ratios - divergence)).detach()
        metrics = {
            "margin": margin,
            "accuracy": (margin > 0).to(margin.dtype),
            "divergence": divergence.expand(len(margin)),
        }
        return weights * kto(ratios, divergence, label, self.beta), metrics


def rloo(log_ratio: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    """-min(c A, clip(c, 1 - e, 1 + e) A) with c = exp(log_ratio), of any shape (Ahmadian et al. 2024, arXiv 2402.14740,
    with the clipped ratio of whole completions of TRL's RLOOTrainer).

    Args:
        log_ratio: sums under the policy less sums under the policy that sampled.
        advantage: A.
    """
    ratio = log_ratio.exp()
    return -(ratio * advantage).minimum(ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


@dataclass(frozen=True)
class RLOOObjective:
    """RLOO on k completions of each prompt; the reference is the policy that sampled them, targets are advantages."""

    needs_reference = True
    sequences: int = 4
    epsilon: float = 0.2

    def __call__(
        self, policy: Tensor, reference: Tensor | None, lengths: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if reference is None or targets is None:
            raise ValueError("RLOO needs log-probabilities of the policy that sampled, and advantages")
        log_ratio = policy - reference
        ratio = log_ratio.detach().exp()
        clipped = ((ratio > 1 + self.epsilon) & (targets > 0)) | ((ratio < 1 - self.epsilon) & (targets < 0))
        metrics = {"log_ratio": log_ratio.detach().mean(dim=1), "clipped": clipped.to(ratio.dtype).mean(dim=1)}
        return rloo(log_ratio, targets, self.epsilon).mean(dim=1), metrics
