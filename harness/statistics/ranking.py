"""Ranks with ties: which of the ranked methods differ, each pair compared on each benchmark.

rank = 1 + the number of ranked methods that are significantly better: the best place that the data allow, as in
leaderboards of pairwise votes, but never better than that of a method with a higher mean. Methods that the data cannot
tell apart share a rank. All pairs on all benchmarks are one family for Holm's correction, because which method is best
was not known before. A method with fewer than LEAST_SEEDS seeds has no rank, because the variance of its runs is
unknown.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.estimates import Estimates, Integers, Stack, estimates
from harness.statistics.grids import LEAST_SEEDS, Floats, Grid, mean
from harness.statistics.intervals import differences

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Standing:
    """The place of a method on a benchmark.

    best: significantly better than every other ranked method.
    """

    rank: int
    best: bool


@dataclass(frozen=True)
class Ranking:
    """The standings of a table.

    standings: benchmark -> method -> standing. pairs: how many comparisons Holm's correction counts.
    errors: benchmark -> (standard error, its degrees of freedom) of a difference between two methods, medians over the
        pairs.
    """

    standings: dict[str, dict[str, Standing]]
    pairs: int
    errors: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class PairwiseTests:
    """n methods compared with each other, as (n, n) arrays, NaN on and below the diagonal and where two methods have
    nothing in common.

    apart: by how much the method of the row is better than that of the column. errors, freedom: the standard errors of
        these differences and their degrees of freedom.
    """

    apart: Floats
    p_values: Floats
    errors: Floats
    freedom: Floats

    @classmethod
    def blank(cls, methods: int) -> "PairwiseTests":
        return cls(*np.full((4, methods, methods), np.nan))

    def put(self, first: int, others: Integers, found: Estimates) -> None:
        """Enter the differences of one method to others."""
        self.apart[first, others], self.p_values[first, others] = found.value, found.p_values()
        self.errors[first, others], self.freedom[first, others] = found.error, found.freedom


def rank(grids: Mapping[str, Mapping[str, Grid]]) -> Ranking:
    """Rank methods by their values.

    Args:
        grids: benchmark -> ranked method -> values.
    """
    scored = {
        name: {method: grid for method, grid in by_method.items() if len(grid.seeds) >= LEAST_SEEDS}
        for name, by_method in grids.items()
    }
    compared = {name: compare(list(by_method.values())) for name, by_method in scored.items() if by_method}
    family = {name: np.argwhere(~np.isnan(each.p_values)) for name, each in compared.items()}
    raw = [each.p_values[tuple(family[name].T)] for name, each in compared.items()]
    limit = threshold(np.concatenate(raw)) if raw else 0.0
    standings: dict[str, dict[str, Standing]] = {}
    errors: dict[str, tuple[float, float]] = {}
    for (name, each), p_values in zip(compared.items(), raw, strict=True):
        first, second = family[name][p_values <= limit].T
        ahead, methods = each.apart[first, second] > 0, len(each.apart)
        losses = np.bincount(np.where(ahead, second, first), minlength=methods)
        wins = np.bincount(np.where(ahead, first, second), minlength=methods)
        means = [mean(grid.values, grid.weights) for grid in scored[name].values()]
        standings[name] = {
            method: Standing(place, methods > 1 and int(won) == methods - 1)
            for method, place, won in zip(scored[name], _places(losses, means), wins, strict=True)
        }
        if len(p_values):
            pairs = tuple(family[name].T)
            errors[name] = float(np.median(each.errors[pairs])), float(np.median(each.freedom[pairs]))
    return Ranking(standings, sum(map(len, raw)), errors)


def _places(losses: Sequence[int] | Integers, means: Sequence[float]) -> list[int]:
    """1 + losses, or the place of a method with a higher mean if that is worse."""
    places, worst = [0] * len(means), 0
    for index in sorted(range(len(means)), key=lambda index: -means[index]):
        places[index] = worst = max(worst, 1 + int(losses[index]))
    return places


def threshold(p_values: Floats) -> float:
    """The largest p-value that is significant after Holm's correction (`harness.statistics.intervals.holm`); -1 where
    none is."""
    ordered = np.sort(p_values)
    passed = ordered * np.arange(len(ordered), 0, -1) < SIGNIFICANT
    first_failed = len(passed) if passed.all() else int(np.argmin(passed))
    return float(ordered[first_failed - 1]) if first_failed else -1.0


def compare(grids: Sequence[Grid]) -> PairwiseTests:
    """Compare each method with each later one: those with equal seeds and questions at once, others pair by pair."""
    found = PairwiseTests.blank(len(grids))
    groups: dict[Hashable, list[int]] = {}
    for place, each in enumerate(grids):
        groups.setdefault((each.seeds, each.questions, each.clusters), []).append(place)
    for places in groups.values():
        _compare_alike([grids[place] for place in places], places, found)
    pairs = np.argwhere(np.triu(np.isnan(found.p_values), 1)).tolist()
    for (i, j), difference in zip(pairs, differences([(grids[i], grids[j]) for i, j in pairs]), strict=True):
        if difference:
            found.apart[i, j], found.p_values[i, j] = difference.value, difference.p_value
            found.errors[i, j], found.freedom[i, j] = difference.error, difference.freedom
    return found


def _compare_alike(grids: Sequence[Grid], places: Sequence[int], found: PairwiseTests) -> None:
    """Compare methods with the same seeds and questions, where every seed of two has a question in common.

    Args:
        places: those of the grids in `found`.
    """
    values, weights = np.stack([each.values for each in grids]), np.stack([each.weights for each in grids])
    for first in range(len(grids) - 1):
        apart = values[first] - values[first + 1 :]
        whole = np.flatnonzero(~np.isnan(apart).all(2).any(1))
        if len(whole):
            both = (weights[first] + weights[first + 1 :]) / 2
            if len(whole) < len(apart):
                apart, both = apart[whole], both[whole]
            others = np.array(places[first + 1 :])[whole]
            found.put(places[first], others, estimates(Stack(apart, both, grids[0].clusters)))
