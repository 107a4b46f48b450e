"""Many methods on the same questions at once: the intervals and p-values of `harness.statistics`, in a fraction of
its time.

All methods of a benchmark are resampled alike, so one product of matrices gives the resampled means of all of them, and
one of random signs all sums under the null hypothesis. Resamples and noise are those of `harness.statistics`; signs are
drawn for every question, also where a difference is 0 (there they change nothing), so that all methods share them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from scipy.special import stdtr

from harness.statistics import (
    CHUNK,
    DRAWS,
    EXACT_QUESTIONS,
    LEVEL,
    Difference,
    Grid,
    Interval,
    bootstrap_interval,
    pair,
    resamples,
    sign_flip_p_value,
    t_noise,
)

T = TypeVar("T")
AT_ONCE = 128  # methods whose resampled means are in memory together
SERIES = 30  # degrees of freedom up to which the series of Student's t is summed
LEAST = 1e-6  # of a weight: less than that in a resample is nothing but rounding
TIED = 1e-12  # of the sum of all parts: equal sums differ in rounding


class Stack:
    """Scores of n methods, as arrays (n, S, Q): weighted values and weights, both 0 where there is no value."""

    def __init__(self, values: np.ndarray, weights: np.ndarray):
        missing = np.isnan(values)
        self.weights = np.where(missing, 0.0, weights)
        self.weighted = np.where(missing, 0.0, values) * self.weights
        self.totals = self.weights.sum(2, keepdims=True)
        shares = self.weighted / self.totals
        self.means = shares.sum(2)
        self.value = self.means.mean(1)
        self.parts = shares.mean(1)  # what each question adds to the mean

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> "Stack":
        """Of grids of equal shape."""
        return cls(np.stack([grid.values for grid in grids]), np.stack([grid.weights for grid in grids]))

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def seeds(self) -> int:
        return self.weights.shape[1]

    @property
    def questions(self) -> int:
        return self.weights.shape[2]

    def spread(self) -> np.ndarray:
        """(n,): the standard deviation that runs add to the mean, as of `seed_variance`."""
        if self.seeds < 2:
            return np.zeros(len(self))
        rest = (self.weighted - self.weights * self.means[..., None]) / self.totals
        within = rest.var(axis=1, ddof=1).sum(1)
        between = self.means.var(axis=1, ddof=1)
        return np.sqrt(np.maximum(0.0, between - within) / self.seeds)


def intervals(grids: Sequence[Grid]) -> list[Interval | None]:
    """As `bootstrap_interval` of each; None where a grid has no value."""
    return _in_stacks(_intervals, grids)


def p_values(grids: Sequence[Grid]) -> list[float]:
    """As `sign_flip_p_value` of each, but for the random signs; no grid may be empty."""
    return _in_stacks(_p_values, grids)


def differences(sides: Sequence[tuple[Grid, Grid]]) -> list[Difference | None]:
    """As `paired_difference` of each two, but for the random signs."""
    pairs = [pair(first, second) for first, second in sides]
    shown = intervals([both for both, _ in pairs])
    with_values = [place for place, interval in enumerate(shown) if interval]
    found: list[Difference | None] = [None] * len(pairs)
    for place, p_value in zip(with_values, p_values([pairs[place][0] for place in with_values]), strict=True):
        both, dropped = pairs[place]
        own = shown[place]
        found[place] = Difference(own.value, own.low, own.high, p_value, len(both.seeds), len(both.questions), dropped)
    return found


def _in_stacks(compute: Callable[[Sequence[Grid]], list[T]], grids: Sequence[Grid]) -> list[T | None]:
    """What is computed of grids of equal shape, for all; None where a grid has no value."""
    found: list[T | None] = [None] * len(grids)
    for places in _alike(grids):
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            for place, each in zip(some, compute([grids[place] for place in some]), strict=True):
                found[place] = each
    return found


def _alike(grids: Sequence[Grid]) -> Iterable[list[int]]:
    """The places of grids that have the same shape; those without values in none."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, grid in enumerate(grids):
        if grid.values.size:
            groups.setdefault(grid.values.shape, []).append(place)
    return groups.values()


def _intervals(grids: Sequence[Grid]) -> list[Interval]:
    stack = Stack.of(grids)
    counted = np.count_nonzero(stack.weights.any(1), axis=1)
    found = [Interval(float(value), float("nan"), float("nan")) for value in stack.value]
    if stack.questions < 2:
        return found
    spread = stack.spread()
    for place, means in enumerate(_resampled(stack)):
        if counted[place] < 2:
            continue
        if means is None:
            found[place] = bootstrap_interval(grids[place].values, grids[place].weights)
            continue
        if spread[place]:
            means += spread[place] * t_noise(stack.seeds - 1, DRAWS, 0)
        means.sort()
        low, high = (_quantile(means, share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        found[place] = Interval(float(stack.value[place]), low, high)
    return found


@lru_cache(maxsize=4)
def _counts(questions: int) -> np.ndarray:
    """How often each question stands in each resample, (questions, draws)."""
    return np.ascontiguousarray(resamples(questions, DRAWS, 0).T).astype(float)


def _resampled(stack: Stack) -> Iterator[np.ndarray | None]:
    """The mean over seeds of the weighted means in each resample, (draws,) for each grid; None where a resample leaves
    a seed without any value.

    Seeds whose weights are equal have one denominator, so that their sums can be taken before the resampling; where all
    weights are equal, it is that of all grids.
    """
    counts, known = _counts(stack.questions), stack.weights[0, 0]
    one = (stack.weights == stack.weights[:, :1]).all(axis=(1, 2))
    tops = [own.mean(0, keepdims=True) if same else own for own, same in zip(stack.weighted, one, strict=True)]
    bottoms = [own[:1] if same else own for own, same in zip(stack.weights, one, strict=True)]
    ends = np.cumsum([len(own) for own in tops])[:-1]
    above = np.split(np.concatenate(tops) @ counts, ends)
    if (stack.weights == known).all():
        below = [known[None] @ counts] * len(stack)
    else:
        below = np.split(np.concatenate(bottoms) @ counts, ends)
    for top, bottom in zip(above, below, strict=True):
        yield None if bottom.min() < LEAST * known.max() else (top / bottom).mean(0)


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Interpolated between neighbours, as numpy's."""
    place = share * (len(ordered) - 1)
    below = int(place)
    return float(ordered[below] + (place - below) * (ordered[below + 1] - ordered[below]))


def _p_values(grids: Sequence[Grid]) -> list[float]:
    stack = Stack.of(grids)
    observed, spread = np.abs(stack.parts.sum(1)), stack.spread()
    flipped = 2 * (stack.parts @ _signs(stack.questions)) - stack.parts.sum(1, keepdims=True)
    tied = TIED * np.abs(stack.parts).sum(1)
    found = []
    for place, sums in enumerate(flipped):
        if np.count_nonzero(stack.parts[place]) <= EXACT_QUESTIONS:
            found.append(sign_flip_p_value(grids[place].values, grids[place].weights))
            continue
        if spread[place]:
            above = student(stack.seeds - 1, (sums - observed[place]) / spread[place])
            beyond = above + student(stack.seeds - 1, (-observed[place] - sums) / spread[place])
        else:
            beyond = np.abs(sums) >= observed[place] - tied[place]
        found.append(float((beyond.sum() + 1) / (DRAWS + 1)))
    return found


@lru_cache(maxsize=2)
def _signs(questions: int) -> np.ndarray:
    """0 or 1 of each question in each pattern, (questions, draws)."""
    rng = np.random.default_rng([0, 2])
    step = max(1, CHUNK // questions)
    kept = [rng.integers(0, 2, (min(step, DRAWS - start), questions), dtype=np.int8) for start in range(0, DRAWS, step)]
    return np.concatenate(kept).astype(float).T


def student(freedom: int, values: np.ndarray) -> np.ndarray:
    """P(T <= values) of Student's t, by its finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4): several times as
    fast as scipy's, which takes any degrees of freedom."""
    if freedom > SERIES:
        return stdtr(freedom, values)
    total = freedom + values * values
    square = freedom / total  # cos^2 of the angle atan(t / sqrt(freedom))
    sine = values / np.sqrt(total)
    odd = freedom % 2
    term = np.sqrt(square) if odd else np.ones_like(sine)
    series = np.zeros_like(sine)
    for power in range(odd, freedom - 1, 2):  # of the cosine: 1, 3, ... or 0, 2, ...
        series += term
        term = term * square * ((power + 1) / (power + 2))
    if odd:
        return 0.5 + (np.arctan(values / np.sqrt(freedom)) + sine * series) / np.pi
    return 0.5 + sine * series / 2
