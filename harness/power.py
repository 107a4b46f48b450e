"""How small a difference can be seen, how many questions that takes, and whether one run is no worse than another.

The model is that of `harness.statistics`: value[s, q] = mean + seed[s] + question[q] + rest[s, q]. A mean over S seeds
and Q questions has the variance  V_question / Q + V_rest / (S Q) + V_seed / S.  The tests there do not know V_seed:
they estimate it from S seeds, cut at 0, and add it as Student's t. How often they find a difference is integrated here
over what they may estimate (a chi-square of S - 1 degrees of freedom) and the mean that they may see (a normal).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from harness.statistics import DRAWS, Grid, _resampled_means, _sums, _t_noise, mean, seed_variance

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
    """Whether a run is no worse than a reference, by more than a margin.

    difference: mean of the run minus that of the reference, on the questions that both have.
    bound: the difference is above it with confidence 1 - alpha (one-sided).
    p_value: of being worse by the margin or more.
    power: how often a run that is equal to the reference in truth passes.
    questions: in common; dropped: values of a question that only one side has. seeds: of the run, of the reference.
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
    weighted, weights = _sums(values, weights)
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


def non_inferiority(
    new: Grid, reference: Grid, margin: float, alpha: float = ALPHA, draws: int = DRAWS
) -> NonInferiority | None:
    """Whether `new` is no worse than `reference` by the margin; None where they have no question in common.

    Questions are paired, by each side's mean over its seeds. Seeds are not: those of the two sides may be others, and
    of another number. Their variance is pooled over both sides; where neither has two seeds it is unknown and left out.
    """
    a, b = (_by_question(side) for side in (new, reference))
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    differences = np.array([[a[question][0] - b[question][0] for question in common]])
    weights = np.array([[(a[question][1] + b[question][1]) / 2 for question in common]])
    value = mean(differences, weights)
    seeds = len(new.seeds), len(reference.seeds)
    runs = sum(1 / number for number in seeds)
    seed, freedom = _pooled(new, reference)
    resampled = _resampled_means(*_sums(differences, weights), draws, 0) if len(common) > 1 else np.full(draws, value)
    if seed:
        resampled = resampled + sqrt(runs * seed) * _t_noise(freedom, len(resampled), 0)
    of_questions = variance(differences, weights).question / len(common)
    return NonInferiority(
        difference=value,
        bound=float(np.quantile(resampled, alpha)),
        margin=margin,
        p_value=float((np.count_nonzero(resampled <= -margin) + 1) / (len(resampled) + 1)),
        power=_passes(margin, of_questions, seed, 0.0, runs, freedom, alpha),
        questions=len(common),
        seeds=seeds,
        dropped=len(a.keys() ^ b.keys()),
    )


def margin_for(new_seeds: int, reference: Grid, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest margin at which a run of so many seeds that equals the reference in truth passes with this power.

    Raises:
        ValueError: when the reference has one seed: how much equal runs differ is then unknown.
    """
    if len(reference.seeds) < 2:
        raise ValueError("a reference of one seed does not say how much equal runs differ")
    parts = variance(reference.values, reference.weights)
    runs, freedom = 1 / new_seeds + 1 / len(reference.seeds), new_seeds + len(reference.seeds) - 2
    rest = parts.rest / len(reference.questions)
    return _smallest(
        lambda margin: _passes(margin, runs * rest, parts.seed, rest, runs, freedom, alpha) >= power,
        sqrt(runs * (rest + parts.seed)),
    )


def _by_question(side: Grid) -> dict[str, tuple[float, float]]:
    """Mean over seeds, and mean weight, of each question that has a value."""
    weighted, weights = _sums(side.values, side.weights)
    tops, bottoms, answered = weighted.sum(0), weights.sum(0), (~np.isnan(side.values)).sum(0)
    return {
        question: (float(tops[place] / bottoms[place]), float(bottoms[place] / answered[place]))
        for place, question in enumerate(side.questions)
        if bottoms[place]
    }


def _pooled(*sides: Grid) -> tuple[float, int]:
    """Variance between seeds over several sides, and its degrees of freedom."""
    freedom = [len(side.seeds) - 1 for side in sides]
    if not sum(freedom):
        return 0.0, 0
    found = [seed_variance(side.values, side.weights) for side in sides]
    return sum(map(float.__mul__, found, map(float, freedom))) / sum(freedom), sum(freedom)


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


def _passes(margin: float, asked: float, seed: float, rest: float, runs: float, freedom: int, alpha: float) -> float:
    """How often "worse by the margin" is rejected when there is no difference.

    Args:
        asked: variance of the difference that its questions make. seed: of a run. rest: of a run's mean, within it.
        runs: 1 / seeds of both sides, added.
    """
    spreads = np.sqrt(runs * _estimates(seed, rest, freedom))
    return _beyond(_thresholds(asked, spreads, freedom, alpha), margin, asked + runs * seed)


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
