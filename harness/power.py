"""How small a difference can be seen, how many questions that takes, and whether one run is no worse than another.

The model is that of `harness.statistics`: value[s, q] = mean + seed[s] + question[q] + rest[s, q]. A mean over S seeds
and Q questions has the variance  V_question / Q + V_rest / (S Q) + V_seed / S.  The tests there do not know V_seed:
they estimate it from S seeds, cut at 0, and add it as Student's t. How often they find a difference is integrated here
over what they may estimate (a chi-square of S - 1 degrees of freedom) and the mean that they may see (a normal).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import chdtri, nctdtr, ndtr, stdtr, stdtrit

from harness.statistics import Grid, seed_variance, weighted_sums

ALPHA = 0.05
POWER = 0.8
MOST_QUESTIONS = 10_000_000  # more are said to be out of reach
NODES = 32  # of an integral over a distribution: its quantiles at evenly spaced probabilities
NODES_OF_T = 128  # whose tails are heavy
HALVINGS = 24


@dataclass(frozen=True)
class Variance:
    """Of a pilot's values: of one question, of the rest of one answer, and of one seed (training run).

    With one seed in the pilot the variance between seeds is unknown (0 here, and the rest is in that of questions):
    what follows from it holds for that very model.
    """

    question: float
    rest: float
    seed: float


@dataclass(frozen=True)
class NonInferiority:
    """Whether runs are no worse than those of a reference, by more than a margin, on the same questions.

    difference: mean of the runs minus that of the reference, on the questions that both have.
    bound: the difference is above it with confidence 1 - alpha (one-sided).
    p_value: of being worse by the margin or more.
    power: how often runs that are equal to the reference's in truth pass.
    questions: in common; dropped: of one side alone. seeds: of the runs, of the reference.
    """

    difference: float
    bound: float
    margin: float
    p_value: float
    power: float
    questions: int
    seeds: tuple[int, int]
    dropped: int

    @property
    def passed(self) -> bool:
        return self.bound > -self.margin


def variance(values: np.ndarray, weights: np.ndarray | None = None) -> Variance:
    """The parts of the variance of values (seeds, questions), NaN where there is none, by the method of moments.

    Args:
        values: differences of two methods, for what a comparison of them can see.
    """
    weighted, weights = weighted_sums(values, weights)
    seeds, questions = weights.shape
    totals = weights.sum(1, keepdims=True)
    parts = (weighted - weights * weighted.sum(1, keepdims=True) / totals) / totals  # of a seed's mean, by question
    centred = questions / max(1, questions - 1)  # parts of a seed add up to 0
    of_means = centred * (parts.mean(0) ** 2).sum()
    rest = centred * np.var(parts, axis=0, ddof=1).sum() if seeds > 1 else 0.0
    return Variance(
        max(0.0, questions * float(of_means - rest / seeds)), questions * float(rest), seed_variance(values, weights)
    )


def power_of(effect: float, variance: Variance, seeds: int, questions: int, alpha: float = ALPHA) -> float:
    """How often the two-sided test of `sign_flip_p_value` finds a true difference of this size.

    Of one seed, it is the difference of these very models.

    Raises:
        ValueError: for fewer than two questions.
    """
    if questions < 2:
        raise ValueError("one question has no variance")
    asked = variance.question / questions + variance.rest / (seeds * questions)
    seed = variance.seed if seeds > 1 else 0.0
    spreads = np.sqrt(_estimates(seed, variance.rest / questions, seeds - 1) / seeds)
    least = _thresholds(asked + effect**2 / questions, spreads, seeds - 1, alpha / 2)  # flipped signs keep the effect
    return _beyond(least, effect, asked + seed / seeds) + _beyond(least, -effect, asked + seed / seeds)


def minimum_detectable_effect(
    variance: Variance, seeds: int, questions: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest true difference that the two-sided test at level alpha finds with this power."""
    return _smallest(
        lambda effect: power_of(effect, variance, seeds, questions, alpha) >= power,
        sqrt(variance.question / questions + variance.rest / questions + variance.seed),
    )


def questions_needed(
    effect: float, variance: Variance, seeds: int, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """The fewest questions at which a true difference of this size is found with this power; None where no number of
    questions is enough, because the training runs vary too much: take more seeds."""

    def enough(questions: int) -> bool:
        return power_of(effect, variance, seeds, questions, alpha) >= power

    if not enough(MOST_QUESTIONS):
        return None
    low, high = 1, MOST_QUESTIONS  # `low` is never enough: one question has no variance
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def non_inferiority(new: Grid, reference: Grid, margin: float, alpha: float = ALPHA) -> NonInferiority | None:
    """Whether runs are no worse than a reference by the margin; None where they have no question in common.

    The questions are the same and take no part in chance: it is in the training runs alone, whose scores on these
    questions are compared by Student's t for two groups, their variance pooled. The two sides may have other seeds, and
    other numbers of them; together they need three.

    Raises:
        ValueError: when both sides have one seed.
    """
    common = sorted(set(new.questions) & set(reference.questions))
    if not common:
        return None
    sides = [_scores(side, common) for side in (new, reference)]
    difference = float(sides[0].mean() - sides[1].mean())
    error, freedom = _error(*sides)
    least = float(stdtrit(freedom, 1 - alpha))
    return NonInferiority(
        difference=difference,
        bound=difference - least * error,
        margin=margin,
        p_value=float(stdtr(freedom, -(difference + margin) / error)) if error else float(difference <= -margin),
        power=_passes(margin / error, freedom, alpha) if error else 1.0,
        questions=len(common),
        seeds=(len(sides[0]), len(sides[1])),
        dropped=len(set(new.questions) ^ set(reference.questions)),
    )


def margin_for(new_seeds: int, reference: Grid, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest margin at which so many runs that equal the reference's in truth pass with this power: over all
    references of as many seeds, each with a margin of its own.

    Raises:
        ValueError: when the reference has one seed: how much equal runs differ is then unknown.
    """
    scores = _scores(reference, reference.questions)
    error, freedom = _error(scores, scores[:1])
    error *= sqrt((1 / new_seeds + 1 / len(scores)) / (1 + 1 / len(scores)))
    return error * float(stdtrit(freedom, 1 - alpha) + stdtrit(freedom, power))


def _scores(side: Grid, questions: Sequence[str]) -> np.ndarray:
    """The mean of each seed on these questions, (S,)."""
    places = [side.questions.index(each) for each in questions]
    weighted, weights = weighted_sums(side.values[:, places], side.weights[:, places])
    return weighted.sum(1) / weights.sum(1)


def _error(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """Standard error of the difference of two means, their variance pooled, and its degrees of freedom."""
    freedom = len(a) + len(b) - 2
    if not freedom:
        raise ValueError("one seed on each side does not say how much runs differ")
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (a, b))
    return sqrt(squares / freedom * (1 / len(a) + 1 / len(b))), freedom


def _passes(shift: float, freedom: int, alpha: float) -> float:
    """How often "worse by `shift` standard errors" is rejected when there is no difference."""
    return float(1 - nctdtr(freedom, shift, stdtrit(freedom, 1 - alpha)))


def _estimates(seed: float, rest: float, freedom: int) -> np.ndarray:
    """What `seed_variance` may find, where a run's mean varies by `seed` and, within its questions, by `rest`."""
    if not freedom:
        return np.zeros(1)
    of_means = (seed + rest) * chdtri(freedom, (np.arange(NODES) + 0.5) / NODES) / freedom
    return np.maximum(0.0, of_means - rest)


def _thresholds(asked: float, spreads: np.ndarray, freedom: int, tail: float) -> np.ndarray:
    """What N(0, asked) + spread t exceeds with probability `tail`, for each spread."""
    if not freedom:
        return np.full(len(spreads), -sqrt(asked) * float(stdtrit(np.inf, tail)))
    noise = spreads[:, None] * stdtrit(freedom, (np.arange(NODES_OF_T) + 0.5) / NODES_OF_T)
    unit = max(sqrt(asked), 1e-9 * float(spreads.max()), 1e-300)
    low, high = np.zeros(len(spreads)), noise.max(1) + 40 * unit
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = ndtr((noise - middle[:, None]) / unit).mean(1) > tail
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return high


def _beyond(least: np.ndarray, effect: float, of_mean: float) -> float:
    """How often a mean with this expectation and variance is above a threshold."""
    return float(ndtr((effect - least) / max(sqrt(of_mean), 1e-300)).mean())


def _smallest(enough: Callable[[float], bool], unit: float) -> float:
    """The smallest size that is enough, found in steps that begin with `unit`; 0 where nothing varies."""
    if not unit:
        return 0.0
    low, high = 0.0, unit
    while not enough(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
