"""Means and their standard errors for scores of several runs on the same questions.

A method is measured by S runs (seeds), each scored on Q questions in G clusters (questions that depend on each other;
each by itself where a benchmark declares none). Two things are random, which questions were asked and how the training
run turned out:

    value[s, q] = mean + seed[s] + question[q] + rest[s, q]
    variance of the mean over seeds and questions = V_question / G + (V_seed + V_rest / G) / S

The second part, R, is the variance of the seeds' means divided by S, with S - 1 degrees of freedom; nothing is
subtracted from it. The first, Q, is the clustered variance of the questions' means (Liang and Zeger 1986; Miller 2024,
"Adding error bars to evals", eq. 4) less the rest that R already contains, with G - 1 degrees of freedom. Student's t
joins both with

    1 / freedom = share / (S - 1) + (1 - share) / (G - 1),  share = R / (Q + R),

which is below Satterthwaite's value (share^2 in place of share), because share itself is estimated from few seeds. No
test or interval is more certain than the t test on the means of the seeds. docs/statistics.md has the measurements.

With one seed R is unknown: results then hold for that one model, over questions only.
Arrays are (S, Q) for one method and (n, S, Q) for n, with NaN where a question has no value; weights have that shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.special import gammaincinv, stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

from harness.statistics.grids import Floats, Grid, weighted_sums

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
LEVEL = 0.95  # of intervals
TIE = 0.02  # runs that differ in the rest alone agree better than this quantile so rarely that it counts as a tie
ROUNDING = 1e-12  # relative to the sum of all parts: smaller parts are rounding errors


class Stack:
    """Scores of n methods, or differences of n pairs, as sums per cluster.

    means: (n, S). parts: what each cluster adds to them, (n, S, G). rest: the same for values less their seed's mean.
    groups: (n,), clusters with a value.
    """

    means: Floats
    parts: Floats
    rest: Floats
    groups: Integers

    def __init__(self, values: Floats, weights: Floats, clusters: tuple[str, ...] = ()):
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
        """Stack grids of equal shape with the same clusters."""
        return cls(
            np.stack([each.values for each in grids]), np.stack([each.weights for each in grids]), grids[0].clusters
        )

    @property
    def seeds(self) -> int:
        return int(self.means.shape[1])

    def within(self, scale: Floats) -> Floats:
        """(n,): the variance of a seed's mean that the rest explains, V_rest / G."""
        within: Floats = scale * self.rest.var(axis=1, ddof=1).sum(1)
        return within

    def between(self, within: Floats) -> Floats:
        """(n,): the variance of the seeds' means.

        Coarse scores can agree by chance, which says nothing about runs. So it is at least the TIE quantile of the
        variance of runs that differ in the rest alone.

        Args:
            within: (n,), see `within`.
        """
        freedom = self.seeds - 1
        least = 2 * float(gammaincinv(freedom / 2, TIE)) / freedom  # of a chi-square over its degrees of freedom
        between: Floats = np.maximum(self.means.var(axis=1, ddof=1), least * within)
        return between


@dataclass(frozen=True)
class Estimates:
    """n means and their errors; all arrays are (n,).

    questions, runs: the two parts Q and R of the squared standard error. groups: clusters.
    signs: clusters that add anything to the mean. run_freedom: degrees of freedom of R, 0 for one seed.
    of_one_run: the questions' part of the squared standard error of a single seed, on average.
    """

    value: Floats
    questions: Floats
    runs: Floats
    groups: Integers | Floats
    signs: Integers | Floats
    run_freedom: int
    of_one_run: Floats

    @cached_property
    def error(self) -> Floats:
        """The standard error."""
        error: Floats = np.sqrt(self.questions + self.runs)
        return error

    @cached_property
    def freedom(self) -> Floats:
        """Its degrees of freedom."""
        total = self.questions + self.runs
        share = self.runs / np.where(total > 0, total, 1.0)
        of_runs = share / self.run_freedom if self.run_freedom else 0.0
        with np.errstate(divide="ignore"):
            freedom: Floats = 1 / (of_runs + (1 - share) / np.maximum(self.groups - 1, 1))
        return freedom

    def half_width(self, level: float = LEVEL) -> Floats:
        """Half the width of the interval; NaN with fewer than two clusters."""
        tail = (1 + level) / 2
        half = stdtrit(self.freedom, tail) * self.error
        if self.run_freedom:
            half = np.maximum(half, stdtrit(self.run_freedom, tail) * np.sqrt(self.runs))
        half_width: Floats = np.where(self.groups < 2, np.nan, half)
        return half_width

    @property
    def least(self) -> Floats:
        """The smallest p-value that random signs of the clusters can give: 2 of their 2^n patterns."""
        least: Floats = np.minimum(1.0, 2.0 ** (1 - self.signs.astype(float)))
        return least

    def p_values(self) -> Floats:
        """Two-sided p-values for a mean of 0."""
        found = np.maximum(self.least, _tails(self.value, self.error, self.freedom))
        if self.run_freedom:
            found = np.maximum(found, _tails(self.value, np.sqrt(self.runs), self.run_freedom))
        p_values: Floats = np.where((self.groups < 2) | (self.signs == 0), 1.0, found)
        return p_values


def estimates(stack: Stack) -> Estimates:
    """Estimate the means of scores, or of differences run by run."""
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
    """Estimate differences between sides whose runs are independent of each other, on the same questions.

    The runs of each side add their variance, with the degrees of freedom of the side that has fewer (Mickey and Brown
    1966: the t test is then conservative). A side with one seed is assumed to vary as the other does.
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


def _by_cluster(values: Floats, clusters: tuple[str, ...]) -> Floats:
    """Sums over the questions of each cluster: (n, S, Q) -> (n, S, G)."""
    if not clusters:
        return values
    order, starts = _order(clusters)
    sums: Floats = np.add.reduceat(values[..., order], starts, axis=-1)
    return sums


@lru_cache(maxsize=64)
def _order(clusters: tuple[str, ...]) -> tuple[Integers, Integers]:
    """The places of the questions sorted by cluster, and where each cluster starts among them."""
    order = np.argsort(np.array(clusters), kind="stable")
    names = np.array(clusters)[order]
    return order, np.flatnonzero(np.r_[True, names[1:] != names[:-1]])


def _scale(groups: Integers) -> Floats:
    """G / (G - 1): residuals of a mean are a little smaller than what they estimate."""
    scale: Floats = groups / np.maximum(groups - 1, 1)
    return scale


def _count(parts: Floats) -> Integers:
    """(n,): how many of (n, G) parts are not 0."""
    least = ROUNDING * np.abs(parts).sum(1, keepdims=True)
    count: Integers = np.count_nonzero(np.abs(parts) > least, axis=1)
    return count


def _tails(value: Floats, error: Floats, freedom: Floats | int) -> Floats:
    """P(|T| >= |value| / error) for Student's t."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(np.nan_to_num(value / error, nan=0.0, posinf=np.inf, neginf=-np.inf))
        tails: Floats = 2 * stdtr(freedom, -ratio)
    return tails
