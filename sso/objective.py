"""The objectives of Self-Steering Optimization (Xiang et al., arXiv 2410.17131).

x is a query, and x+ and x- are the query with a good and a bad principle as system message; y+, y- and yo are the
policy's responses to x+, x- and x. L_b(x; w over l) is a preference loss of a pair, and l(y|x) the average
log-probability per token of y under the policy, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import UserError
from harness.training.examples import TokenSequence
from harness.training.losses import PairwiseLoss, sft
from harness.types import TokenIds

if TYPE_CHECKING:
    from torch import Tensor

NEGATIVES = ("paper", "alternative")
WEIGHT_FORMS = ("paper", "released")


@dataclass(frozen=True)
class Query:
    """Token ids of one query: prompts x, x+ and x-, and responses y+, y- and yo with their stop tokens."""

    plain: TokenIds
    good: TokenIds
    bad: TokenIds
    good_response: TokenIds
    bad_response: TokenIds
    plain_response: TokenIds


@dataclass(frozen=True, kw_only=True)
class GeneratorObjective(PairwiseLoss):
    """The loss of the data generator (version 2 of the paper, section 4.2).

    L_SSO = L+ + L-, where
    L+ = L_b(x+; y+ over y-) + gamma * L_sft(x+, y+) and
    L- = L_b(x-; yo over y+) + gamma * L_sft(x-, yo), L_sft(x, y) = -l(y|x).

    use_positive, use_negative: whether L+ and L- take part (the paper's ablation, table 3).
    negative: the pair of L-; "alternative" is y- over y+ instead of yo over y+.
    """

    gamma: float = 0.1
    use_positive: bool = True
    use_negative: bool = True
    negative: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.use_positive or self.use_negative):
            raise UserError("the generator's loss needs L+ or L-, and both are off: set use_positive or use_negative")
        if self.negative not in NEGATIVES:
            raise UserError(f"negative must be one of {', '.join(NEGATIVES)}, not {self.negative!r}")

    @property
    def sequences(self) -> int:
        return 2 * (self.use_positive + self.use_negative)

    def select(self, query: Query) -> tuple[TokenSequence, ...]:
        """The sequences of an example, in the order that the loss reads them."""
        positive = _pair(query.good, query.good_response, query.bad_response)
        chosen = query.plain_response if self.negative == "paper" else query.bad_response
        negative = _pair(query.bad, chosen, query.good_response)
        return (*(positive if self.use_positive else ()), *(negative if self.use_negative else ()))

    def __call__(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        names = ["positive"] * self.use_positive + ["negative"] * self.use_negative
        pairs = _pairs(policy, reference, lengths)
        losses, metrics = policy.new_zeros(len(policy)), self.pair_metrics(*pairs[0])
        for name, pair in zip(names, pairs, strict=True):
            likelihood = pair.policy[:, 0] / pair.lengths[:, 0]
            term = self.pair_losses(*pair) + self.gamma * sft(likelihood)
            losses = losses + term
            metrics |= {f"{name}_loss": term.detach(), f"{name}_accuracy": self.pair_metrics(*pair)["accuracy"]}
        return losses, metrics


@dataclass(frozen=True, kw_only=True)
class WeightedObjective(PairwiseLoss):
    """The loss of the policy in version 1 of the paper: a weighted loss on x with two auxiliary terms.

    L = W * [L_b(x; y+ over y-) + auxiliary * (L_b(x+; y+ over y-) + L_b(x-; yo over y+))] and
    W = sigmoid(-(alpha * l(y+|x) + (1 - alpha) * l(y-|x))).

    auxiliary: weight of the auxiliary terms, g in the paper; at 0 their sequences are left out.
    weight: whether W takes part; if not, W = 1.
    weight_form: "released" weights only the auxiliary terms, L_b + W * auxiliary * (...), as the authors' code does.
    detach_weight: no gradient through W.
    """

    auxiliary: float = 0.1
    weight: bool = True
    weight_form: str = "paper"
    alpha: float = 0.66
    detach_weight: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_form not in WEIGHT_FORMS:
            raise UserError(f"weight_form must be one of {', '.join(WEIGHT_FORMS)}, not {self.weight_form!r}")

    @property
    def sequences(self) -> int:
        return 6 if self.auxiliary else 2

    def select(self, query: Query) -> tuple[TokenSequence, ...]:
        """The sequences of an example, in the order that the loss reads them."""
        main = _pair(query.plain, query.good_response, query.bad_response)
        if not self.auxiliary:
            return main
        positive = _pair(query.good, query.good_response, query.bad_response)
        return (*main, *positive, *_pair(query.bad, query.plain_response, query.good_response))

    def __call__(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        main, *rest = _pairs(policy, reference, lengths)
        preference = self.pair_losses(*main)
        metrics = self.pair_metrics(*main)
        auxiliary = policy.new_zeros(len(policy))
        for name, pair in zip(("positive", "negative"), rest, strict=False):
            term = self.pair_losses(*pair)
            auxiliary = auxiliary + self.auxiliary * term
            metrics |= {f"{name}_loss": term.detach(), f"{name}_accuracy": self.pair_metrics(*pair)["accuracy"]}
        if not self.weight:
            return preference + auxiliary, metrics
        likelihoods = policy[:, :2] / lengths[:, :2]
        weights = pair_weight(likelihoods.detach() if self.detach_weight else likelihoods, self.alpha)
        metrics["weight"] = weights.detach()
        if self.weight_form == "released":
            return preference + weights * auxiliary, metrics
        return weights * (preference + auxiliary), metrics


def pair_weight(likelihoods: Tensor, alpha: float) -> Tensor:
    """(B,) weights W, which are larger for less likely pairs, from (B, 2) averages l(y+|x) and l(y-|x) (version 1)."""
    chosen, rejected = likelihoods.unbind(dim=1)
    return (-(alpha * chosen + (1 - alpha) * rejected)).sigmoid()


def _pair(prompt: TokenIds, chosen: TokenIds, rejected: TokenIds) -> tuple[TokenSequence, TokenSequence]:
    return TokenSequence(prompt, chosen), TokenSequence(prompt, rejected)


class _Pair(NamedTuple):
    """(B, 2) arguments of an objective for one pair, the chosen first."""

    policy: Tensor
    reference: Tensor | None
    lengths: Tensor


def _pairs(policy: Tensor, reference: Tensor | None, lengths: Tensor) -> list[_Pair]:
    """(B, 2 n) columns as n pairs."""
    pairs = [slice(start, start + 2) for start in range(0, policy.shape[1], 2)]
    return [
        _Pair(policy[:, pair], None if reference is None else reference[:, pair], lengths[:, pair]) for pair in pairs
    ]
