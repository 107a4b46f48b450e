"""Power: the smallest difference that can be found, what it takes, and tests of non-inferiority.

The model is that of `harness.statistics.estimates`: value[s, q] = mean + seed[s] + question[q] + rest[s, q]. A
difference over S seeds and Q questions has the squared standard error

    V_question / Q + (V_seed + V_rest / Q) / S,

and the tests estimate its second part from S seeds alone. The power is an integral over that estimate (a chi-square
with S - 1 degrees of freedom) and over the observed mean (a normal).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import chdtri, nctdtr, ndtr, stdtr, stdtrit

from harness.statistics.estimates import LEVEL, Estimates, Stack
from harness.statistics.grids import LEAST_SEEDS, Floats, Grid, weighted_sums

ALPHA = 0.05
POWER = 0.8
MOST_QUESTIONS = 10_000_000  # more are out of reach
MOST_SEEDS = 100
NODES = 64  # of an integral over a chi-square: its quantiles at evenly spaced probabilities
HALVINGS = 40


@dataclass(frozen=True)
class Variance:
    """The parts of the variance of differences: of one question, of the rest of one answer, of one training run (seed).

    Questions are independent; dependent ones count as one cluster. With one seed in the pilot the variance between runs
    is unknown: it is 0 here, the rest is part of that of questions, and results hold for that one model.
    """

    question: float
    rest: float
    seed: float


@dataclass(frozen=True)
class Mix:
    """A number of seeds per method and of questions, with the cost of one method in the unit of the given costs."""

    seeds: int
    questions: int
    cost: float


@dataclass(frozen=True)
class NonInferiority:
    """A test whether runs are worse than a reference by a margin or more, on the same questions.

    difference: the mean of the runs minus that of the reference, on the questions that both have.
    bound: the difference is above it with confidence 1 - alpha (one-sided).
    p_value: for the hypothesis that the runs are worse by the margin or more.
    power: how often runs that are truly equal to the reference pass.
    questions: how many both have. dropped: how many one side alone has. seeds: of the runs, and of the reference.
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


def variance(values: Floats, weights: Floats | None = None, clusters: tuple[str, ...] = ()) -> Variance:
    """Estimate the parts of a variance by the method of moments (Searle et al. 1992, Variance Components, ch. 5), each
    at least 0.

    Args:
        values: (seeds, questions), NaN where there is none: the differences of two methods, to plan a comparison.
        weights: of the same shape.
    """
    weights = np.ones_like(values) if weights is None else weights
    stack = Stack(values[None], weights[None], clusters)
    seeds, groups = stack.seeds, int(stack.groups[0])
    scale = groups / max(1, groups - 1)
    of_means = scale * float((stack.rest.mean(1) ** 2).sum())
    if seeds == 1:
        return Variance(groups * of_means, 0.0, 0.0)
    rest = float(stack.within(np.array([scale]))[0])
    between = float(stack.means.var(ddof=1))
    return Variance(max(0.0, groups * (of_means - rest / seeds)), groups * rest, max(0.0, between - rest))


def power_of(effect: float, variance: Variance, seeds: int, questions: int, alpha: float = ALPHA) -> float:
    """How often the two-sided test of `Estimates` finds a true difference of this size.

    With one seed it is the difference between two given models.

    Raises:
        ValueError: for fewer than two questions.
    """
    of_questions, of_runs = _parts(variance, seeds, questions)
    least = _half_widths(of_questions, of_runs, seeds, questions, 1 - alpha)
    error = max(sqrt(of_questions + of_runs), 1e-300)
    return float((ndtr((effect - least) / error) + ndtr((-effect - least) / error)).mean())


def half_width(variance: Variance, seeds: int, questions: int, level: float = LEVEL) -> float:
    """Half the width of the interval of a difference, on average over experiments.

    Raises:
        ValueError: for fewer than two questions.
    """
    return float(_half_widths(*_parts(variance, seeds, questions), seeds, questions, level).mean())


def minimum_detectable_effect(
    variance: Variance, seeds: int, questions: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest true difference that the two-sided test at level alpha finds with this power."""
    return _smallest(
        lambda effect: power_of(effect, variance, seeds, questions, alpha) >= power,
        sqrt(sum(_parts(variance, seeds, questions))),
    )


def detectable(error: float, freedom: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a t test with this standard error and these degrees of freedom finds with this
    power (noncentral t distribution)."""
    if not error > 0:
        return 0.0
    freedom = min(freedom, 1e6)
    least = float(stdtrit(freedom, 1 - alpha / 2))
    return error * _smallest(lambda shift: 1 - nctdtr(freedom, shift, least) >= power, least)


def questions_needed(
    effect: float, variance: Variance, seeds: int, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """The fewest questions that find a true difference of this size with this power; None where no number is enough,
    because the training runs vary too much (more seeds are needed)."""

    def enough(questions: int) -> bool:
        return power_of(effect, variance, seeds, questions, alpha) >= power

    if not enough(MOST_QUESTIONS):
        return None
    low, high = 1, MOST_QUESTIONS  # `low` is never enough: one question has no variance
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def cheapest(
    effect: float,
    variance: Variance,
    run_cost: float,
    answer_cost: float,
    alpha: float = ALPHA,
    power: float = POWER,
    most_questions: int = MOST_QUESTIONS,
) -> Mix | None:
    """The cheapest seeds and questions that find a difference of this size; None where MOST_SEEDS are not enough.

    Args:
        run_cost, answer_cost: costs of one training run, and of one answer with its judgment.
    """
    best: Mix | None = None
    for seeds in range(LEAST_SEEDS, MOST_SEEDS + 1):
        if best and seeds * run_cost >= best.cost:
            break
        questions = questions_needed(effect, variance, seeds, alpha, power)
        if questions is not None and questions <= most_questions:
            mix = Mix(seeds, questions, seeds * (run_cost + questions * answer_cost))
            best = min(best or mix, mix, key=lambda each: each.cost)
    return best


def non_inferiority(new: Grid, reference: Grid, margin: float, alpha: float = ALPHA) -> NonInferiority | None:
    """Test whether runs are worse than a reference by the margin; None where they have no question in common.

    The questions are the same, so only the training runs are random. The variance of their scores is estimated from the
    reference alone, by Student's t with the degrees of freedom of its seeds: a run that is checked cannot widen its own
    margin. The two sides may have different seeds, and different numbers of them.

    Raises:
        ValueError: when the reference has one seed.
    """
    common = sorted(set(new.questions) & set(reference.questions))
    if not common:
        return None
    sides = [_scores(side, common) for side in (new, reference)]
    difference = float(sides[0].mean() - sides[1].mean())
    error, freedom = _error(len(sides[0]), sides[1])
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


def margin_for(
    new_seeds: int, reference: Grid, alpha: float = ALPHA, power: float = POWER, heavy: float = 1.0
) -> float:
    """The smallest margin at which runs that are truly equal to the reference pass with this power, over all references
    with as many seeds, each with its own margin.

    Args:
        heavy: a divisor of the degrees of freedom for the share that has to pass, for scores with heavier tails than a
            normal distribution: the variance of a variance is (kurtosis - 1) / 2 times that of a normal.

    Raises:
        ValueError: when the reference has one seed: how much equal runs differ is then unknown.
    """
    scores = _scores(reference, reference.questions)
    error, freedom = _error(new_seeds, scores)
    return error * float(stdtrit(freedom, 1 - alpha) + stdtrit(freedom / heavy, power))


def _scores(side: Grid, questions: Sequence[str]) -> Floats:
    """The mean of each seed on these questions, (S,)."""
    places = [side.questions.index(each) for each in questions]
    weighted, weights = weighted_sums(side.values[:, places], side.weights[:, places])
    scores: Floats = weighted.sum(1) / weights.sum(1)
    return scores


def _error(new_seeds: int, reference: Floats) -> tuple[float, int]:
    """Standard error, and its degrees of freedom, of the difference between the mean of new runs and of the reference.

    Args:
        reference: the scores of its seeds, (S,).
    """
    if len(reference) < 2:
        raise ValueError("a reference with one seed does not say how much runs differ")
    return float(np.std(reference, ddof=1)) * sqrt(1 / new_seeds + 1 / len(reference)), len(reference) - 1


def _passes(shift: float, freedom: int, alpha: float) -> float:
    """How often "worse by `shift` standard errors" is rejected when there is no difference."""
    return float(1 - nctdtr(freedom, shift, stdtrit(freedom, 1 - alpha)))


def _parts(variance: Variance, seeds: int, questions: int) -> tuple[float, float]:
    """What questions and what runs add to the squared standard error; with one seed, questions add all."""
    if questions < 2:
        raise ValueError("one question has no variance")
    if seeds == 1:
        return (variance.question + variance.rest) / questions, 0.0
    return variance.question / questions, (variance.seed + variance.rest / questions) / seeds


def _half_widths(of_questions: float, of_runs: float, seeds: int, questions: int, level: float) -> Floats:
    """Half the width of intervals of this level, (NODES,), for quantiles of the estimate of the runs' part."""
    if seeds == 1:
        runs = np.zeros(1)
    else:
        runs = of_runs * chdtri(seeds - 1, (np.arange(NODES) + 0.5) / NODES) / (seeds - 1)
    ones = np.ones_like(runs)
    asked: Floats = questions * ones
    found = Estimates(0 * ones, of_questions * ones, runs, asked, asked, seeds - 1, of_questions * ones)
    return found.half_width(level)


def _smallest(enough: Callable[[float], bool], unit: float) -> float:
    """The smallest number that is enough, by doubling from `unit` and halving; 0 where nothing varies (unit 0)."""
    if not unit:
        return 0.0
    low, high = 0.0, unit
    while not enough(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
