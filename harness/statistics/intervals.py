"""Intervals of scores, and differences between methods with their p-values, from `harness.statistics.estimates`."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

from harness.statistics.estimates import LEVEL, ROUNDING, Estimates, Stack, estimates, unpaired
from harness.statistics.grids import LEAST_SEEDS, Floats, Grid, Match, match

T = TypeVar("T")
U = TypeVar("U")
FEW = 5  # clusters' worth of answers away from a limit: a mean with fewer is near it
AT_ONCE = 128  # methods that are in memory together


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; low and high are NaN where fewer than two clusters have a value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The mean of a - b on what both answered, its interval and two-sided p-value.

    seeds: of the side that has fewer. questions: that both sides have. dropped: values (of a question and seed) that
        only one side has, in the seeds that are compared.
    clusters: how many independent questions there are. error, freedom: the standard error and its degrees of freedom.
    paired: whether runs are compared one by one; otherwise the two sides have different seeds.
    """

    value: float
    low: float
    high: float
    p_value: float
    seeds: int
    questions: int
    dropped: int
    clusters: int = 0
    error: float = float("nan")
    freedom: float = float("nan")
    paired: bool = True

    @property
    def called(self) -> bool:
        """Whether there are enough seeds to say that the methods differ, and not only these models."""
        return self.seeds >= LEAST_SEEDS


def intervals(grids: Sequence[Grid], limits: tuple[float, float] | None = None) -> list[Interval | None]:
    """The mean of each grid with its interval; None where a grid has no value.

    Args:
        limits: the lowest and the highest value of a question, if there are any: intervals are then Wilson's (see
            `wilson`), which hold near the limits too.
    """

    def compute(alike: Sequence[Grid]) -> list[Interval]:
        found = estimates(Stack.of(alike))
        half = found.half_width()
        low, high = found.value - half, found.value + half
        if limits and _within(limits, alike):
            low, high = wilson(found, half, limits)
        return [Interval(*map(float, each)) for each in zip(found.value, low, high, strict=True)]

    present = [place for place, each in enumerate(grids) if each.values.size]
    found: list[Interval | None] = [None] * len(grids)
    computed = _in_groups(compute, [grids[place] for place in present], _shape)
    for place, interval in zip(present, computed, strict=True):
        found[place] = interval
    return found


def wilson(found: Estimates, half: Floats, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """The ends, (n,) each, of Wilson's (1927) score interval for means of values that lie within limits.

    With m the mean as a share of the way between the limits and e its standard error, m (1 - m) / e^2 is the effective
    number of independent right-or-wrong answers (Kish 1965); k is half / e. Near a limit, the few questions with
    another answer say little about how often all runs fail together, so there a question counts once, however many runs
    there are. Where all answers are at the limit, the number is that of the clusters.

    Args:
        half: (n,), half the width of the ordinary interval.
    """
    low, high = limits
    share, width = (found.value - low) / (high - low), half / (high - low)
    error = found.error / (high - low)
    factor_of = width / np.where(error > 0, error, 1.0)
    near = np.minimum(share, 1 - share) * found.groups < FEW
    error = np.where(near, np.maximum(error, np.sqrt(found.of_one_run) / (high - low)), error)
    room = np.clip(share * (1 - share), 0.0, None)
    certain = room < ROUNDING
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.where(certain, found.groups, room / error**2)
        factor = np.where(certain, stdtrit(np.maximum(found.groups - 1, 1), (1 + LEVEL) / 2), factor_of) ** 2
        middle = (share + factor / (2 * number)) / (1 + factor / number)
        around = np.sqrt(factor * (room / number + factor / (4 * number**2))) / (1 + factor / number)
    apart = certain | (error > 0)
    ends = (np.where(apart, middle + sign * around, share) for sign in (-1, 1))
    unknown = np.where(np.isnan(half), np.nan, 0.0)
    lowest, highest = (low + (high - low) * np.clip(end, 0.0, 1.0) + unknown for end in ends)
    return lowest, highest


def differences(sides: Sequence[tuple[Grid, Grid]]) -> list[Difference | None]:
    """How the first of each two grids differs from the second (see `match`); None where they have nothing in common."""
    matched = [(place, each) for place, sides_of in enumerate(sides) if (each := match(*sides_of))]
    found: list[Difference | None] = [None] * len(sides)
    for paired in (True, False):
        chosen = [(place, each) for place, each in matched if (each.other is None) == paired]
        for (place, _), difference in zip(chosen, _differences([each for _, each in chosen]), strict=True):
            found[place] = difference
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the given order (Holm 1979): the i-th smallest of m, counted from 0,
    times (m - i), but at least the corrected value of a smaller one and at most 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _differences(matched: Sequence[Match]) -> list[Difference]:
    """The differences of matches that are all paired, or none of which is."""

    def compute(alike: Sequence[Match]) -> list[Difference]:
        stack = Stack.of([each.first for each in alike])
        others = [each.other for each in alike if each.other is not None]
        found = unpaired(stack, Stack.of(others)) if others else estimates(stack)
        few = found.least > 1 - LEVEL  # with so few clusters that differ, no test at this level can tell it from 0
        half = np.maximum(found.half_width(), np.where(few, np.abs(found.value), 0.0))
        columns = (found.value, found.value - half, found.value + half, found.p_values(), found.error, found.freedom)
        return [
            Difference(
                value=value,
                low=low,
                high=high,
                p_value=p_value,
                seeds=each.seeds,
                questions=len(each.first.questions),
                dropped=each.dropped,
                clusters=int(groups),
                error=error,
                freedom=freedom,
                paired=each.other is None,
            )
            for each, groups, (value, low, high, p_value, error, freedom) in zip(
                alike, found.groups, np.stack(columns, axis=1).tolist(), strict=True
            )
        ]

    return _in_groups(compute, matched, lambda each: (_shape(each.first), each.other and _shape(each.other)))


def _in_groups(compute: Callable[[Sequence[T]], list[U]], things: Sequence[T], key: Callable[[T], Hashable]) -> list[U]:
    """Compute a result for each thing, AT_ONCE things with the same key at a time; results are in their order."""
    groups: dict[Hashable, list[int]] = {}
    for place, each in enumerate(things):
        groups.setdefault(key(each), []).append(place)
    found: dict[int, U] = {}
    for places in groups.values():
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            found |= zip(some, compute([things[place] for place in some]), strict=True)
    return [found[place] for place in range(len(things))]


def _within(limits: tuple[float, float], grids: Sequence[Grid]) -> bool:
    """Whether all values are within the limits."""
    return all(limits[0] <= np.nanmin(each.values) and np.nanmax(each.values) <= limits[1] for each in grids)


def _shape(grid: Grid) -> Hashable:
    return grid.values.shape, grid.clusters
