"""Intervals, differences and corrected p-values for scores of several runs on the same questions.

A method is measured by S runs (seeds), each scored on Q questions that fall into G clusters (questions that hang
together; each by itself where a benchmark declares none). Two things are random: which questions were asked, and how
the training run turned out:

    value[s, q] = mean + seed[s] + question[q] + rest[s, q]
    variance of the mean over seeds and questions = V_question / G + (V_seed + V_rest / G) / S

Its second part, R, is the variance of the seeds' means over S, with S - 1 degrees of freedom; nothing is subtracted
from it. The first, Q, is the clustered variance of the questions' means (Liang and Zeger 1986; Miller 2024, "Adding
error bars to evals", eq. 4) less the rest that is in R already, with G - 1 degrees of freedom. Both are joined by
Student's t with

    1 / freedom = share / (S - 1) + (1 - share) / (G - 1),  share = R / (Q + R),

which falls below Satterthwaite's (share^2 in place of share) because share is itself estimated from few seeds; and no
test or interval is surer than the t test on the means of the seeds. docs/statistics.md says what was measured of it.

With one seed R is unknown: results then hold for this very model, and speak of other questions only.
Arrays are (S, Q) of one method and (n, S, Q) of n, NaN where a question has no value; weights have the same shape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress, repeat
from typing import TypeVar

import numpy as np
from scipy.special import gammaincinv, stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

T = TypeVar("T")
LEVEL = 0.95
LEAST_SEEDS = 3  # on both sides of a difference: fewer say too little of another training run to call it
TIE = 0.02  # seeds' means that agree better than runs without any variance of their own do so often are taken for ties
FEW = 5  # clusters' worth of answers away from a limit: with fewer, a mean is taken to be near it
ROUNDING = 1e-12  # of the sum of all parts: less than that is no difference
AT_ONCE = 128  # methods that are in memory together


@dataclass(frozen=True)
class Grid:
    """Values of one method on one benchmark: seeds x questions, NaN where there is no value, with their weights.

    clusters: of each question, the name of what it hangs together with; empty where each stands by itself.
    """

    seeds: tuple[int, ...]
    questions: tuple[str, ...]
    values: np.ndarray
    weights: np.ndarray
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; low and high are NaN where fewer than two clusters have a value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The mean of a - b on what both answered, its interval and two-sided p-value.

    seeds: of the side that has fewer. dropped: values (of a question and seed) that only one side has, in the seeds
    that are compared. clusters: how many independent questions there are. error, freedom: the standard error and its
    degrees of freedom. paired: run by run; else the two sides have other seeds.
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
        """Whether there are seeds enough to say that the methods differ, not just these models."""
        return self.seeds >= LEAST_SEEDS


def grid(
    values: Mapping[int, Mapping[str, float]],
    weights: Mapping[int, Mapping[str, float]] | None = None,
    clusters: Mapping[str, str] | None = None,
) -> Grid:
    """From seed -> question -> value, and the same of weights; a question without a weight has the weight 1.

    Seeds without any value are left out.

    Args:
        clusters: question -> what it hangs together with; a question that is not there stands by itself.
    """
    seeds = tuple(sorted(seed for seed, by_question in values.items() if by_question))
    asked = dict.fromkeys(tuple(values[seed]) for seed in seeds)  # mostly the same of every seed
    questions = tuple(sorted(set().union(*asked)))
    weights = weights or {}

    def table(source: Mapping[int, Mapping[str, float]], default: float) -> np.ndarray:
        blank = [default] * len(questions)
        own = [source.get(seed) for seed in seeds]
        rows = [list(map(each.get, questions, repeat(default))) if each else blank for each in own]
        return np.array(rows, dtype=float).reshape(len(seeds), len(questions))

    named = tuple(f"cluster {clusters[each]}" if each in clusters else each for each in questions) if clusters else ()
    return Grid(seeds, questions, table(values, np.nan), table(weights, 1.0), named)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean over seeds of each seed's weighted mean over its questions: every run counts once."""
    weighted, weights = weighted_sums(values, weights)
    return float(np.mean(weighted.sum(1) / weights.sum(1)))


def weighted_sums(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight times value, and weight, both 0 where there is no value."""
    missing = np.isnan(values)
    weights = np.where(missing, 0.0, 1.0 if weights is None else weights)
    return np.where(missing, 0.0, values) * weights, weights


class Stack:
    """Scores of n methods, or differences of n pairs, as sums by cluster.

    means: (n, S). parts: what each cluster adds to them, (n, S, G). rest: the same of values less their seed's mean.
    groups: (n,), clusters with a value.
    """

    def __init__(self, values: np.ndarray, weights: np.ndarray, clusters: tuple[str, ...] = ()):
        if (weights == weights.flat[0]).all() and not np.isnan(values).any():
            shares = _by_cluster(np.full((1, 1, values.shape[2]), 1 / values.shape[2]), clusters)
            self.parts = _by_cluster(values / values.shape[2], clusters)
        else:
            weighted, weights = weighted_sums(values, weights)
            totals = weights.sum(2, keepdims=True)
            shares = _by_cluster(weights / totals, clusters)
            self.parts = _by_cluster(weighted / totals, clusters)
        self.means = self.parts.sum(2)
        self.rest = self.parts - shares * self.means[..., None]
        self.groups = np.broadcast_to(np.count_nonzero(shares.any(1), axis=1), len(self.parts))

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> "Stack":
        """Of grids of equal shape, with the same clusters."""
        values, weights = (np.stack([getattr(grid, name) for grid in grids]) for name in ("values", "weights"))
        return cls(values, weights, grids[0].clusters)

    @property
    def seeds(self) -> int:
        return self.means.shape[1]

    def within(self, scale: np.ndarray) -> np.ndarray:
        """(n,): the variance of a seed's mean that the rest explains, V_rest / G."""
        return scale * self.rest.var(axis=1, ddof=1).sum(1)

    def between(self, within: np.ndarray) -> np.ndarray:
        """(n,): the variance of the seeds' means. Coarse scores can agree by chance, which says nothing of runs: it is
        at least the TIE quantile of what runs have that differ in the rest alone, which is `within`."""
        freedom = self.seeds - 1
        least = 2 * float(gammaincinv(freedom / 2, TIE)) / freedom  # of a chi-square over its degrees of freedom
        return np.maximum(self.means.var(axis=1, ddof=1), least * within)


@dataclass(frozen=True)
class Estimates:
    """n means and what is known of their errors; arrays (n,).

    questions, runs: the two parts of the squared standard error, Q and R of this module's head. groups: clusters.
    signs: those that add anything to the mean. run_freedom: 0 where there is one seed. of_one_run: the questions' part
    of the squared standard error of one seed alone, on average.
    """

    value: np.ndarray
    questions: np.ndarray
    runs: np.ndarray
    groups: np.ndarray
    signs: np.ndarray
    run_freedom: int
    of_one_run: np.ndarray

    @cached_property
    def error(self) -> np.ndarray:
        return np.sqrt(self.questions + self.runs)

    @cached_property
    def freedom(self) -> np.ndarray:
        total = self.questions + self.runs
        share = self.runs / np.where(total > 0, total, 1.0)
        of_runs = share / self.run_freedom if self.run_freedom else 0.0
        with np.errstate(divide="ignore"):
            return 1 / (of_runs + (1 - share) / np.maximum(self.groups - 1, 1))

    def half_width(self, level: float = LEVEL) -> np.ndarray:
        """Of the interval; NaN where there are fewer than two clusters."""
        tail = (1 + level) / 2
        half = stdtrit(self.freedom, tail) * self.error
        if self.run_freedom:
            half = np.maximum(half, stdtrit(self.run_freedom, tail) * np.sqrt(self.runs))
        return np.where(self.groups < 2, np.nan, half)

    @property
    def least(self) -> np.ndarray:
        """The smallest p-value that random signs of the clusters can give: 2 of their 2^n patterns."""
        return np.minimum(1.0, 2.0 ** (1 - self.signs.astype(float)))

    def p_values(self) -> np.ndarray:
        """Two-sided, of a mean of 0."""
        found = np.maximum(self.least, _tails(self.value, self.error, self.freedom))
        if self.run_freedom:
            found = np.maximum(found, _tails(self.value, np.sqrt(self.runs), self.run_freedom))
        return np.where((self.groups < 2) | (self.signs == 0), 1.0, found)


def estimates(stack: Stack) -> Estimates:
    """Of scores, or of differences run by run."""
    seeds, scale = stack.seeds, _scale(stack.groups)
    questions = scale * (stack.rest.mean(1) ** 2).sum(1)
    runs = np.zeros_like(questions)
    if seeds > 1:
        within = stack.within(scale)
        questions = np.maximum(0.0, questions - within / seeds)
        runs = stack.between(within) / seeds
    signs = _count(stack.parts.mean(1))
    of_one_run = scale * (stack.rest**2).sum(2).mean(1)
    return Estimates(stack.means.mean(1), questions, runs, stack.groups, signs, seeds - 1, of_one_run)


def unpaired(first: Stack, second: Stack) -> Estimates:
    """Of differences between sides whose runs have nothing to do with each other, on the same questions.

    Each side's runs add their variance, with the degrees of freedom of the side that has fewer (Mickey and Brown 1966:
    the t test is then never too sure). A side with one seed is taken to vary as the other does.
    """
    groups = np.minimum(first.groups, second.groups)
    scale = _scale(groups)
    questions = scale * ((first.rest.mean(1) - second.rest.mean(1)) ** 2).sum(1)
    runs = np.zeros_like(questions)
    known = [side for side in (first, second) if side.seeds > 1]
    for side in (first, second) if known else ():
        source = side if side.seeds > 1 else known[0]
        within = source.within(scale)
        runs = runs + source.between(within) / side.seeds
        questions = questions - within / side.seeds
    value = first.means.mean(1) - second.means.mean(1)
    signs = _count(first.parts.mean(1) - second.parts.mean(1))
    freedom = min((side.seeds for side in known), default=1) - 1
    return Estimates(value, np.maximum(0.0, questions), runs, groups, signs, freedom, np.maximum(0.0, questions))


def intervals(grids: Sequence[Grid], limits: tuple[float, float] | None = None) -> list[Interval | None]:
    """The mean of each grid with its interval; None where a grid has no value.

    Args:
        limits: the lowest and the highest value that a question can have, where there are such: intervals are then
            Wilson's (see `wilson`), which hold near them too.
    """

    def compute(alike: Sequence[Grid]) -> list[Interval]:
        found = estimates(Stack.of(alike))
        half = found.half_width()
        low, high = found.value - half, found.value + half
        if limits and _within(limits, alike):
            low, high = wilson(found, half, limits)
        return [Interval(*map(float, each)) for each in zip(found.value, low, high, strict=True)]

    return _in_stacks(compute, grids)


def wilson(found: Estimates, half: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's (1927) score interval for means of values that lie within limits; (n,) each.

    With m the mean as a share of the way between the limits and e its standard error, m (1 - m) / e^2 is the effective
    number of independent answers, right or wrong (Kish 1965); k is half / e. Near a limit the few questions that are
    answered otherwise tell little of how often all runs fail together: there a question counts once, whatever the
    number of its runs. Where all answers are at the limit, their number is that of the clusters.
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
    """How the first of each two differs from the second (see `match`); None where they have nothing in common."""
    matched = [match(*each) for each in sides]
    found: list[Difference | None] = [None] * len(sides)
    for paired in (True, False):
        places = [place for place, each in enumerate(matched) if each and (each.other is None) == paired]
        for place, difference in zip(places, _differences([matched[each] for each in places]), strict=True):
            found[place] = difference
    return found


@dataclass(frozen=True)
class Match:
    """What is compared of two methods: differences run by run, or (`other`) two sides on the same questions."""

    own: Grid
    other: Grid | None
    dropped: int

    @property
    def seeds(self) -> int:
        return len(self.own.seeds) if self.other is None else min(len(self.own.seeds), len(self.other.seeds))


def match(a: Grid, b: Grid) -> Match | None:
    """Run by run where both have the same seeds, or LEAST_SEEDS in common, or one each; else with all seeds of both.

    None where no question has a value on both sides. Where the weights of both sides differ, their mean counts.
    """
    if not (a.seeds and b.seeds):
        return None
    common = tuple(sorted(set(a.seeds) & set(b.seeds)))
    alone = len(a.seeds) == len(b.seeds) == 1
    if alone or common == a.seeds == b.seeds or len(common) >= LEAST_SEEDS:
        both, dropped = pair(a, b)
        return Match(both, None, dropped) if both.seeds else None
    questions, clusters = _questions_of(a, b)
    sides = [aligned(each, each.seeds, questions) for each in (a, b)]
    answered = [~np.isnan(values).all(0) for values, _ in sides]
    columns = answered[0] & answered[1]
    dropped = int(sum((~np.isnan(values[:, ~columns])).sum() for values, _ in sides))
    weights = np.nanmean(np.concatenate([own for _, own in sides])[:, columns], axis=0) if columns.any() else None
    grids = []
    for side, (values, _) in zip((a, b), sides, strict=True):
        values = values[:, columns]
        rows = ~np.isnan(values).all(1)
        if not rows.any():
            return None
        own = np.broadcast_to(weights, values[rows].shape)
        seeds = tuple(compress(side.seeds, rows))
        grids.append(
            Grid(seeds, tuple(compress(questions, columns)), values[rows], own, tuple(compress(clusters, columns)))
        )
    return Match(grids[0], grids[1], dropped)


def pair(a: Grid, b: Grid) -> tuple[Grid, int]:
    """The differences a - b on the seeds and questions that both have, and how many values had no partner.

    Two sides with one seed each are two models, whatever their seeds.
    """
    alone = len(a.seeds) == len(b.seeds) == 1
    seeds = a.seeds if alone else tuple(sorted(set(a.seeds) & set(b.seeds)))
    questions, clusters = _questions_of(a, b)
    (values_a, weights_a), (values_b, weights_b) = aligned(a, seeds, questions), aligned(b, seeds, questions)
    differences, weights = values_a - values_b, (weights_a + weights_b) / 2
    dropped = int((np.isnan(values_a) != np.isnan(values_b)).sum())
    answered = ~np.isnan(differences)
    rows, columns = answered.any(1), answered.any(0)
    if rows.all() and columns.all():
        return Grid(seeds, questions, differences, weights, clusters), dropped
    kept = tuple(compress(seeds, rows)), tuple(compress(questions, columns))
    return Grid(*kept, differences[rows][:, columns], weights[rows][:, columns], tuple(compress(clusters, columns))), (
        dropped
    )


def aligned(side: Grid, seeds: tuple[int, ...], questions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights on these questions, among which are its own, NaN for the others; and on these seeds, which it
    has, unless it has just one: that stands for the one asked for."""
    if (side.seeds, side.questions) == (seeds, questions):
        return side.values, side.weights
    rows = [0 if len(side.seeds) == 1 else side.seeds.index(seed) for seed in seeds]
    place = {question: i for i, question in enumerate(questions)}
    columns = [place[question] for question in side.questions]
    values, weights = np.full((2, len(seeds), len(questions)), np.nan)
    values[:, columns] = side.values[rows]
    weights[:, columns] = side.weights[rows]
    return values, weights


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the given order (Holm 1979): the i-th smallest of m, counted from 0,
    times (m - i), never below a smaller one's and never above 1.

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
    """Of matches that are all run by run, or all of two sides."""

    def compute(alike: Sequence[int]) -> list[Difference]:
        own = [matched[each] for each in alike]
        stack = Stack.of([each.own for each in own])
        found = estimates(stack) if own[0].other is None else unpaired(stack, Stack.of([each.other for each in own]))
        few = found.least > 1 - LEVEL  # clusters that differ: no test at this level tells the mean from 0
        half = np.maximum(found.half_width(), np.where(few, np.abs(found.value), 0.0))
        columns = (found.value, found.value - half, found.value + half, found.p_values(), found.error, found.freedom)
        return [
            Difference(
                *numbers[:4],
                *(each.seeds, len(each.own.questions), each.dropped, int(groups)),
                *(*numbers[4:], each.other is None),
            )
            for each, groups, numbers in zip(own, found.groups, np.stack(columns, axis=1).tolist(), strict=True)
        ]

    def shape(each: int) -> tuple:
        other = matched[each].other
        return _shape(matched[each].own), other and _shape(other)

    return _in_groups(compute, range(len(matched)), shape)


def _in_stacks(compute: Callable[[Sequence[Grid]], list[T]], grids: Sequence[Grid]) -> list[T | None]:
    """What is computed of grids of equal shape, for all; None where a grid has no value."""
    present = [place for place, each in enumerate(grids) if each.values.size]
    found: list[T | None] = [None] * len(grids)
    computed = _in_groups(compute, [grids[place] for place in present], _shape)
    for place, each in zip(present, computed, strict=True):
        found[place] = each
    return found


def _in_groups(compute: Callable[[Sequence[T]], list], things: Sequence[T], key: Callable[[T], tuple]) -> list:
    """What is computed of things with the same key at a time, in the order of the things."""
    groups: dict[tuple, list[int]] = {}
    for place, each in enumerate(things):
        groups.setdefault(key(each), []).append(place)
    found: list = [None] * len(things)
    for places in groups.values():
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            for place, each in zip(some, compute([things[place] for place in some]), strict=True):
                found[place] = each
    return found


def _within(limits: tuple[float, float], grids: Sequence[Grid]) -> bool:
    """Whether all values are."""
    return all(limits[0] <= np.nanmin(each.values) and np.nanmax(each.values) <= limits[1] for each in grids)


def _shape(own: Grid) -> tuple:
    return own.values.shape, own.clusters


def _questions_of(a: Grid, b: Grid) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All questions of two sides, and their clusters."""
    if a.questions == b.questions and (a.clusters == b.clusters or not b.clusters):
        return a.questions, a.clusters
    questions = tuple(sorted(set(a.questions) | set(b.questions)))
    named = {question: name for side in (b, a) for question, name in zip(side.questions, side.clusters, strict=False)}
    return questions, tuple(named.get(each, each) for each in questions) if named else ()


def _by_cluster(values: np.ndarray, clusters: tuple[str, ...]) -> np.ndarray:
    """Sums over the questions of each cluster: (n, S, Q) -> (n, S, G)."""
    if not clusters:
        return values
    order, starts = _order(clusters)
    return np.add.reduceat(values[..., order], starts, axis=-1)


@lru_cache(maxsize=64)
def _order(clusters: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The places of the questions sorted by cluster, and where each cluster starts among them."""
    order = np.argsort(np.array(clusters), kind="stable")
    names = np.array(clusters)[order]
    return order, np.flatnonzero(np.r_[True, names[1:] != names[:-1]])


def _scale(groups: np.ndarray) -> np.ndarray:
    """G / (G - 1): residuals of a mean are a little smaller than what they estimate."""
    return groups / np.maximum(groups - 1, 1)


def _count(parts: np.ndarray) -> np.ndarray:
    """(n,): how many of (n, G) parts are not 0."""
    least = ROUNDING * np.abs(parts).sum(1, keepdims=True)
    return np.count_nonzero(np.abs(parts) > least, axis=1)


def _tails(value: np.ndarray, error: np.ndarray, freedom: Iterable[float] | float) -> np.ndarray:
    """P(|T| >= |value| / error) of Student's t."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * stdtr(freedom, -np.abs(np.nan_to_num(value / error, nan=0.0, posinf=np.inf, neginf=-np.inf)))
