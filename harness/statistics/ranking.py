"""Ranks with ties: which of the ranked methods differ, each pair compared on each benchmark.

rank = 1 + the number of ranked methods that are significantly better: the best place that the data leave open, as in
leaderboards of pairwise votes, and never a better one than a method with a higher mean has. Methods that cannot be
told apart share one. All pairs on all benchmarks are one family for Holm's correction, because which method is best was
not known before. A method with fewer than LEAST_SEEDS seeds takes no part: how much its runs vary is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.intervals import LEAST_SEEDS, Estimates, Grid, Stack, differences, estimates, mean

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Standing:
    """best: significantly better than every other ranked method."""

    rank: int
    best: bool


@dataclass(frozen=True)
class Ranking:
    """Benchmark -> method -> standing. pairs: how many comparisons Holm's correction counts.

    errors: benchmark -> (standard error, its degrees of freedom) of a difference between two of its methods, the
    median over the pairs.
    """

    standings: dict[str, dict[str, Standing]]
    pairs: int
    errors: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class PairwiseTests:
    """Methods compared with each other: how much a row's is better than a column's, the p-value, the standard error and
    its degrees of freedom; (n, n), NaN where two have nothing in common and on and below the diagonal."""

    apart: np.ndarray
    p_values: np.ndarray
    errors: np.ndarray
    freedom: np.ndarray

    @classmethod
    def blank(cls, methods: int) -> "PairwiseTests":
        return cls(*np.full((4, methods, methods), np.nan))

    def put(self, first: int, others: Sequence[int], found: Estimates) -> None:
        self.apart[first, others], self.p_values[first, others] = found.value, found.p_values()
        self.errors[first, others], self.freedom[first, others] = found.error, found.freedom


def rank(grids: Mapping[str, Mapping[str, Grid]]) -> Ranking:
    """The ranking of methods by their values: benchmark -> ranked method -> grid."""
    scored = {
        name: {method: each for method, each in own.items() if len(each.seeds) >= LEAST_SEEDS}
        for name, own in grids.items()
    }
    compared = {name: compare(list(own.values())) for name, own in scored.items() if own}
    family = {name: np.argwhere(~np.isnan(each.p_values)) for name, each in compared.items()}
    raw = [each.p_values[tuple(family[name].T)] for name, each in compared.items()]
    limit = threshold(np.concatenate(raw)) if raw else 0.0
    standings, errors = {}, {}
    for (name, each), own in zip(compared.items(), raw, strict=True):
        first, second = family[name][own <= limit].T
        ahead, methods = each.apart[first, second] > 0, len(each.apart)
        losses = np.bincount(np.where(ahead, second, first), minlength=methods)
        wins = np.bincount(np.where(ahead, first, second), minlength=methods)
        means = [mean(grid.values, grid.weights) for grid in scored[name].values()]
        standings[name] = {
            method: Standing(place, methods > 1 and int(won) == methods - 1)
            for method, place, won in zip(scored[name], _places(losses, means), wins, strict=True)
        }
        if len(own):
            errors[name] = tuple(float(np.median(part[tuple(family[name].T)])) for part in (each.errors, each.freedom))
    return Ranking(standings, sum(map(len, raw)), errors)


def _places(losses: Sequence[int], means: Sequence[float]) -> list[int]:
    """1 + losses, or the place of a method with a higher mean where that is worse."""
    places, worst = [0] * len(means), 0
    for index in sorted(range(len(means)), key=lambda index: -means[index]):
        places[index] = worst = max(worst, 1 + int(losses[index]))
    return places


def threshold(p_values: np.ndarray) -> float:
    """The largest of these that is significant after Holm's correction (see `statistics.holm`), -1 where none is."""
    ordered = np.sort(p_values)
    passed = ordered * np.arange(len(ordered), 0, -1) < SIGNIFICANT
    first_failed = len(passed) if passed.all() else int(np.argmin(passed))
    return float(ordered[first_failed - 1]) if first_failed else -1.0


def compare(grids: Sequence[Grid]) -> PairwiseTests:
    """Each method with each later one: those with the same seeds and questions at once, the others pair by pair."""
    found = PairwiseTests.blank(len(grids))
    groups: dict[tuple, list[int]] = {}
    for place, each in enumerate(grids):
        groups.setdefault((each.seeds, each.questions, each.clusters), []).append(place)
    for places in groups.values():
        _compare_alike([grids[place] for place in places], places, found)
    first, second = np.nonzero(np.triu(np.isnan(found.p_values), 1))
    sides = [(grids[i], grids[j]) for i, j in zip(first, second, strict=True)]
    for i, j, each in zip(first, second, differences(sides), strict=True):
        if each:
            found.apart[i, j], found.p_values[i, j] = each.value, each.p_value
            found.errors[i, j], found.freedom[i, j] = each.error, each.freedom
    return found


def _compare_alike(grids: Sequence[Grid], places: Sequence[int], found: PairwiseTests) -> None:
    """Those with the same seeds and questions, where every seed of two has a question in common."""
    values, weights = (np.stack([getattr(each, name) for each in grids]) for name in ("values", "weights"))
    for first in range(len(grids) - 1):
        apart = values[first] - values[first + 1 :]
        whole = np.flatnonzero(~np.isnan(apart).all(2).any(1))
        if len(whole):
            both = (weights[first] + weights[first + 1 :]) / 2
            if len(whole) < len(apart):
                apart, both = apart[whole], both[whole]
            others = np.array(places[first + 1 :])[whole]
            found.put(places[first], others, estimates(Stack(apart, both, grids[0].clusters)))
