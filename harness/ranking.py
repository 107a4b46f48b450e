"""Ranks with ties: which of the ranked methods differ, each pair compared on each benchmark.

rank = 1 + the number of ranked methods that are significantly better: the best place that the data leave open, as in
leaderboards of pairwise votes, and never a better one than a method with a higher mean has. Methods that can not be
told apart share one. All pairs on all benchmarks are one family for Holm's correction, because which method is best was
not known before.

A p-value from random signs is never below 1 / (draws + 1), so that in a family of more than MOST_TESTED none could be
significant after the correction. There an upper bound of the same p-value takes its place, which finds less, but has no
such floor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
from scipy.special import stdtr

from harness.resampling import TIED, Stack, p_values
from harness.statistics import DRAWS, Grid, aligned, mean, pair

SIGNIFICANT = 0.05
MOST_TESTED = int(SIGNIFICANT * (DRAWS + 1))
SPLITS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of a difference, between runs and questions


@dataclass(frozen=True)
class Standing:
    """best: significantly better than every other ranked method."""

    rank: int
    best: bool


@dataclass(frozen=True)
class Ranking:
    """Benchmark -> method -> standing. pairs: how many comparisons Holm's correction counts. bounded: p-values are
    upper bounds."""

    standings: dict[str, dict[str, Standing]]
    pairs: int
    bounded: bool


@dataclass(frozen=True)
class Comparison:
    """Methods compared with each other: how much a row's is better than a column's, and the p-value; (n, n), NaN where
    two have nothing in common and on the diagonal."""

    apart: np.ndarray
    p_values: np.ndarray

    @classmethod
    def blank(cls, methods: int) -> "Comparison":
        return cls(np.full((methods, methods), np.nan), np.full((methods, methods), np.nan))

    def put(self, first: int, others: Sequence[int], apart: np.ndarray, p_values: np.ndarray) -> None:
        self.apart[first, others], self.apart[others, first] = apart, -apart
        self.p_values[first, others] = self.p_values[others, first] = p_values


def rank(grids: Mapping[str, Mapping[str, Grid]]) -> Ranking:
    """The ranking of methods by their values: benchmark -> ranked method -> grid."""
    scored = {name: {method: grid for method, grid in own.items() if grid.seeds} for name, own in grids.items()}
    bounded = sum(len(own) * (len(own) - 1) // 2 for own in scored.values()) > MOST_TESTED
    compared = {name: (bounds if bounded else tests)(list(own.values())) for name, own in scored.items() if own}
    family = {name: np.argwhere(np.triu(~np.isnan(each.p_values))) for name, each in compared.items()}
    raw = [each.p_values[tuple(family[name].T)] for name, each in compared.items()]
    limit = threshold(np.concatenate(raw)) if raw else 0.0
    standings = {}
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
    return Ranking(standings, sum(map(len, raw)), bounded)


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


def tests(grids: Sequence[Grid]) -> Comparison:
    """The sign-flip test of each pair."""
    found = Comparison.blank(len(grids))
    places = combinations(range(len(grids)), 2)
    pairs = [(each, both) for each in places if (both := pair(grids[each[0]], grids[each[1]])[0]).seeds]
    for ((first, second), both), p_value in zip(pairs, p_values([both for _, both in pairs]), strict=True):
        found.put(first, [second], Stack.of([both]).value, np.array([p_value]))
    return found


def bounds(grids: Sequence[Grid]) -> Comparison:
    """An upper bound of the p-value of each pair (see `bound`)."""
    found = Comparison.blank(len(grids))
    questions = tuple(sorted(set().union(*{grid.questions for grid in grids})))
    sides = [aligned(grid, grid.seeds, questions) for grid in grids]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, grid in enumerate(grids):
        groups.setdefault(grid.seeds, []).append(place)
    for places in groups.values():
        _compare_alike(sides, places, found)
    for first, (values, weights) in enumerate(sides):
        left = np.isnan(found.p_values[first])
        left[: first + 1] = False
        for seeds, places in groups.items():
            own, theirs = _common_seeds(grids[first].seeds, seeds)
            others = [place for place in places if left[place]]
            if not (own and others):
                continue
            their_values, their_weights = (np.stack([sides[other][i][theirs] for other in others]) for i in (0, 1))
            with np.errstate(invalid="ignore"):  # no question of a seed in common: nothing is known of the difference
                stack = Stack(values[own] - their_values, (weights[own] + their_weights) / 2)
            limits = bound(stack.value, (stack.parts**2).sum(1), stack.spread(), stack.seeds)
            found.put(first, others, stack.value, limits)
    return found


def bound(values: np.ndarray, squares: np.ndarray, spread: np.ndarray, seeds: int) -> np.ndarray:
    """An upper bound of the sign-flip p-value of differences, for each of any number.

    Random signs bring a sum of parts to x or beyond with a probability of at most 2 exp(-x^2 / (2 sum(parts^2)))
    (Hoeffding 1963); where runs vary, either that sum or the t noise has to make up its share of the difference.

    Args:
        squares: the sum of the squares of what each question adds to the difference.
        spread: what runs add to its standard deviation.
    """
    observed, varying = np.abs(values), spread > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(varying, 1.0, 2 * np.exp(-(observed**2) / (2 * squares)))
        for share in SPLITS if varying.any() else ():
            runs = 2 * stdtr(seeds - 1, -share * observed / spread)
            questions = 2 * np.exp(-(((1 - share) * observed) ** 2) / (2 * squares))
            found = np.where(varying, np.fmin(found, runs + questions), found)
    return np.where(observed == 0, 1.0, np.minimum(found, 1.0))


def _compare_alike(sides: Sequence[tuple[np.ndarray, np.ndarray]], places: Sequence[int], found: Comparison) -> None:
    """The bounds of all pairs of methods with the same seeds whose weights are equal wherever they have values: sums
    over common questions of (products of) differences are then sums of products of what each method has."""
    weights = np.full_like(sides[places[0]][1], np.nan)
    alike = []
    for place in places:
        known = ~np.isnan(sides[place][0])
        own = np.where(known, sides[place][1], np.nan)
        if not (known & (own != weights) & ~np.isnan(weights)).any():
            weights = np.where(known, own, weights)
            alike.append(place)
    values = np.stack([sides[place][0] for place in alike])
    known = (~np.isnan(values)).astype(float)
    values = np.where(np.isnan(values), 0.0, values - np.nanmean(values))  # smaller numbers, smaller errors
    weights = np.nan_to_num(weights)
    seeds = len(weights)
    totals = [(known[:, s] * weights[s]) @ known[:, s].T for s in range(seeds)]
    with np.errstate(divide="ignore", invalid="ignore"):  # no question of a seed in common
        means = []
        for s in range(seeds):
            above = (values[:, s] * weights[s]) @ known[:, s].T
            means.append((above - above.T) / totals[s])
        apart = np.mean(means, axis=0)
        squares, within = np.zeros_like(apart), np.zeros_like(apart)
        for s, t in combinations_with_replacement(range(seeds), 2):
            both, scale = known[:, s] * known[:, t], totals[s] * totals[t]
            ones = (both * (weights[s] * weights[t])) @ both.T
            first, second = _products(values, known, weights, both, s, t), _products(values, known, weights, both, t, s)
            pairs = (values[:, s] * values[:, t] * (weights[s] * weights[t])) @ both.T
            crossed = (values[:, s] * known[:, t] * (weights[s] * weights[t])) @ (known[:, s] * values[:, t]).T
            pairs = pairs + pairs.T - crossed - crossed.T
            times = 1 if s == t else 2  # (t, s) gives the same
            squares += times * pairs / scale
            rest = (pairs - means[t] * first - means[s] * second + means[s] * means[t] * ones) / scale
            within += times * rest * ((s == t) - 1 / seeds)
    spread = np.zeros_like(apart)
    if seeds > 1:
        between = np.var(means, axis=0, ddof=1)
        spread = np.sqrt(np.maximum(0.0, between - within / (seeds - 1)) / seeds)
    apart[np.abs(apart) < TIED * np.abs(values).max()] = 0.0
    limits = bound(apart, np.maximum(0.0, squares) / seeds**2, spread, seeds)
    np.fill_diagonal(limits, np.nan)
    found.apart[np.ix_(alike, alike)], found.p_values[np.ix_(alike, alike)] = apart, limits


def _products(
    values: np.ndarray, known: np.ndarray, weights: np.ndarray, both: np.ndarray, s: int, t: int
) -> np.ndarray:
    """Sums over common questions of the weighted differences of seed s and the weights of seed t, (n, n)."""
    above = (values[:, s] * known[:, t] * (weights[s] * weights[t])) @ both.T
    return above - above.T


def _common_seeds(own: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Rows of both sides that belong together; a single seed is one model, paired with every seed of the other."""
    if min(len(own), len(theirs)) == 1:
        number = max(len(own), len(theirs))
        return tuple([0] * number if len(side) == 1 else list(range(number)) for side in (own, theirs))
    seeds = sorted(set(own) & set(theirs))
    return [own.index(seed) for seed in seeds], [theirs.index(seed) for seed in seeds]
