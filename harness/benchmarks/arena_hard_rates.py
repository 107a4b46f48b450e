"""Arena-Hard's win rates from verdicts: the Bradley-Terry model against one baseline, also with control of style.

With two players the Bradley-Terry maximum likelihood is the mean outcome, ties counted as a half. Control of style
adds differences of style to the logit (Li et al. 2024, "Does style matter?"): length, headers, lists and bold text.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WEIGHT = 3  # of a verdict "significantly better"
GAMES = {  # verdict -> outcome for A (1: A wins), and how often it counts
    "A>>B": (1.0, WEIGHT),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B=A": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, WEIGHT),
    "A<B": (0.0, 1),
    "A<<B": (0.0, WEIGHT),
    "B<A": (1.0, 1),
    "B<<A": (1.0, WEIGHT),
}
RESAMPLES = 100  # as published
LARGEST = 10.0  # coefficients beyond this mean that wins and losses can be told apart completely
_CODE = re.compile("```([^`]*)```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True)
class Battle:
    """A question with both verdicts.

    scores: outcomes for the model, from 0 to 1. output, reference: what was compared.
    """

    id: str
    scores: Sequence[float]
    output: str
    reference: str


def win_rate(battles: Sequence[Battle]) -> dict[str, Any]:
    """Return the win rate in percent, with its 95 % bootstrap interval over questions."""
    import numpy as np

    sums = np.array([sum(each.scores) for each in battles])
    numbers = np.array([len(each.scores) for each in battles])
    picked = _resamples(len(battles))
    rates = 100 * sums[picked].sum(axis=1) / numbers[picked].sum(axis=1)
    return {"win_rate": float(100 * sums.sum() / numbers.sum()), "win_rate_interval": _interval(rates)}


def style_controlled(battles: Sequence[Battle]) -> dict[str, Any]:
    """Return the win rate at equal style, in percent, with its 95 % bootstrap interval over questions.

    The logit of an outcome is b + w . x with the style differences x. The leaderboard centres x over all of its models;
    a single model has none to be centred with, so x = 0 stands for equal style and the win rate is logistic(b).

    Returns:
        win_rate and interval; or "reason" if it cannot be fitted.
    """
    import numpy as np

    if not battles:
        return {"win_rate": None, "reason": "no question has verdicts in both orders"}
    differences = np.array([style_difference(each.output, each.reference) for each in battles])
    spread = differences.std(axis=0)
    used = differences[:, spread > 0] / spread[spread > 0]
    outcomes = np.array([sum(each.scores) for each in battles])
    numbers = np.array([len(each.scores) for each in battles], dtype=float)
    features = np.column_stack([np.ones(len(battles)), used])
    found = _fit(features, outcomes, numbers)
    if found is None:
        return {"win_rate": None, "reason": "style tells wins from losses completely: there is no finite fit"}
    resampled = [_fit(features[picked], outcomes[picked], numbers[picked]) for picked in _resamples(len(battles))]
    rates = [100 * _logistic(float(each[0])) for each in resampled if each is not None]
    return {
        "win_rate": 100 * _logistic(float(found[0])),
        "win_rate_interval": _interval(rates) if len(rates) == RESAMPLES else None,
        "resamples_without_fit": RESAMPLES - len(rates),
    }


def style_difference(output: str, reference: str) -> list[float]:
    """Return the published style features of a pair: (a - b) / (a + b) for the length, and for headers, lists and bold
    text (a - b) / (a + b + 1) of their number per length. Lengths are in characters (published: tokens of GPT-4o)."""
    own, other = _style(output), _style(reference)
    length = (own[0] - other[0]) / max(own[0] + other[0], 1)
    densities = [(a / max(own[0], 1), b / max(other[0], 1)) for a, b in zip(own[1:], other[1:], strict=True)]
    return [length, *((a - b) / (a + b + 1) for a, b in densities)]


def _style(text: str) -> tuple[int, int, int, int]:
    """Return the length, and the numbers of headers, list entries and bold texts outside code blocks."""
    plain = _CODE.sub("", text)
    return len(text), len(_HEADER.findall(plain)), len(_LIST.findall(plain)), len(_BOLD.findall(plain))


def _fit(features: "np.ndarray", outcomes: "np.ndarray", numbers: "np.ndarray") -> "np.ndarray | None":
    """Return the coefficients (d,) of a logistic regression, None if there is no finite maximum.

    Args:
        features: (n, d). outcomes: (n,), sums of outcomes. numbers: (n,), how many they are.
    """
    import numpy as np
    from scipy.optimize import minimize

    def loss(beta: "np.ndarray") -> "tuple[float, np.ndarray]":
        logits = features @ beta
        value = numbers * np.logaddexp(0, logits) - outcomes * logits
        return float(value.sum()), features.T @ (numbers / (1 + np.exp(-logits)) - outcomes)

    with np.errstate(over="ignore"):
        found = minimize(loss, np.zeros(features.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-6})
    return found.x if np.abs(found.x).max() < LARGEST and np.isfinite(found.x).all() else None


def _resamples(questions: int) -> "np.ndarray":
    import numpy as np

    return np.random.default_rng(0).integers(0, questions, (RESAMPLES, questions))


def _interval(rates: Any) -> list[float]:
    import numpy as np

    return [float(end) for end in np.quantile(rates, (0.025, 0.975))]


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-score))
