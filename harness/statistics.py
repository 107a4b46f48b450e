"""Intervals, paired differences and corrected p-values for scores of several runs on the same questions.

A method is measured by S runs (seeds), each scored on Q questions. Two things are random: which questions were asked,
and how the training run turned out. The model behind all numbers here is

    value[s, q] = mean + seed[s] + question[q] + rest[s, q],

so the mean over seeds and questions has the variance  V_seed / S  +  (variance of the question means) / Q. The second
term is found by resampling questions, each with all its seeds (a cluster), and already contains the rest. V_seed is the
variance of the seeds' means less what the questions explain of it, and enters with Student's t, S - 1 degrees of
freedom. Resampling the few seeds themselves would not do: three seeds resampled give a variance 2/3 of the right one
and normal instead of t quantiles (a "95 %" interval that covers about 75 % where runs vary), and would count the rest
twice where they do not (99 %).

With one seed V_seed is unknown: results then hold for this very model, and speak of other questions only.
Arrays are (S, Q), NaN where a question has no value; weights have the same shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, repeat

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

LEVEL = 0.95
DRAWS = 10_000
EXACT_QUESTIONS = 14  # up to 2^14 sign patterns are enumerated; more questions are sampled
CHUNK = 4_000_000  # cells of a resampling matrix that are in memory as floats at once


@dataclass(frozen=True)
class Grid:
    """Values of one method on one benchmark: seeds x questions, NaN where there is no value, with their weights."""

    seeds: tuple[int, ...]
    questions: tuple[str, ...]
    values: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; low and high are NaN where fewer than two questions have a value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The mean of a - b on what both answered, its interval and two-sided p-value.

    dropped: values (of a question and seed) that only one side has, in the seeds that both have.
    """

    value: float
    low: float
    high: float
    p_value: float
    seeds: int
    questions: int
    dropped: int


def grid(values: Mapping[int, Mapping[str, float]], weights: Mapping[int, Mapping[str, float]] | None = None) -> Grid:
    """From seed -> question -> value, and the same of weights; a question without a weight has the weight 1.

    Seeds without any value are left out.
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

    return Grid(seeds, questions, table(values, np.nan), table(weights, 1.0))


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean over seeds of each seed's weighted mean over its questions: every run counts once."""
    weighted, weights = weighted_sums(values, weights)
    return float(np.mean(weighted.sum(1) / weights.sum(1)))


def seed_variance(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """V_seed: how much the mean of one seed varies from run to run, beyond what its questions explain; 0 for one seed.

    The variance of the seeds' means is V_seed plus that of the rest, which shows within the questions: with
    u[s, q] = w[s, q] (value[s, q] - mean[s]) / w[s], the sum over questions of the variance of u over seeds estimates
    it. This is the method-of-moments estimate of a two-way random model (Searle et al., Variance Components, ch. 5),
    cut at 0.
    """
    if len(values) < 2:
        return 0.0
    weighted, weights = weighted_sums(values, weights)
    totals = weights.sum(1, keepdims=True)
    means = weighted.sum(1, keepdims=True) / totals
    within = np.var((weighted - weights * means) / totals, axis=0, ddof=1).sum()
    return max(0.0, float(np.var(means, ddof=1) - within))


def bootstrap_interval(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    rng_seed: int = 0,
) -> Interval:
    """The mean with a percentile interval: questions are resampled, the variance between seeds is added as t noise."""
    weighted, weights = weighted_sums(values, weights)
    value = mean(values, weights)
    if np.count_nonzero(weights.any(0)) < 2:
        return Interval(value, float("nan"), float("nan"))
    resampled = _resampled_means(weighted, weights, draws, rng_seed)
    spread = np.sqrt(seed_variance(values, weights) / len(values))
    if spread:
        resampled = resampled + spread * t_noise(len(values) - 1, len(resampled), rng_seed)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def sign_flip_p_value(
    values: np.ndarray, weights: np.ndarray | None = None, draws: int = DRAWS, rng_seed: int = 0
) -> float:
    """Two-sided p-value of "the mean of these differences is 0", by flipping signs.

    The unit that is flipped is a question with all its seeds: answers of several seeds to one question are not
    independent. Flipping alone would ask whether these very models differ; to ask whether the methods do, the
    variance between seeds is added to the null distribution as t noise, as in the interval. For one seed, or seeds
    that differ no more than their questions explain, this is the usual sign-flip test: all 2^Q patterns for up to
    EXACT_QUESTIONS differences that are not 0, else (k + 1) / (n + 1) of n random ones.
    """
    weighted, weights = weighted_sums(values, weights)
    parts = (weighted / weights.sum(1, keepdims=True)).mean(0)  # what each question adds to the mean
    observed = abs(parts.sum())
    parts = parts[parts != 0]
    exact = len(parts) <= EXACT_QUESTIONS
    if exact:
        patterns = (np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts))) & 1
        flipped = (2 * patterns - 1) @ parts
    else:
        flipped = _random_flips(parts, draws, rng_seed)
    spread = np.sqrt(seed_variance(values, weights) / len(values))
    if spread:
        freedom = len(values) - 1
        beyond = stdtr(freedom, (flipped - observed) / spread) + stdtr(freedom, (-observed - flipped) / spread)
    else:
        beyond = np.abs(flipped) >= observed - 1e-12 * np.abs(parts).sum()  # equal sums differ in rounding
    return float(beyond.mean() if exact else (beyond.sum() + 1) / (len(flipped) + 1))


def pair(a: Grid, b: Grid) -> tuple[Grid, int]:
    """The differences a - b on the seeds and questions that both have, and how many values had no partner.

    A side with a single seed is one model (an untrained base, say) and is paired with every seed of the other.
    Where the weights of both sides differ, their mean counts.
    """
    if min(len(a.seeds), len(b.seeds)) == 1:
        seeds = max(a.seeds, b.seeds, key=len)
    else:
        seeds = tuple(sorted(set(a.seeds) & set(b.seeds)))
    questions = a.questions if a.questions == b.questions else tuple(sorted(set(a.questions) | set(b.questions)))
    (values_a, weights_a), (values_b, weights_b) = aligned(a, seeds, questions), aligned(b, seeds, questions)
    differences, weights = values_a - values_b, (weights_a + weights_b) / 2
    dropped = int((np.isnan(values_a) != np.isnan(values_b)).sum())
    answered = ~np.isnan(differences)
    rows, columns = answered.any(1), answered.any(0)
    if rows.all() and columns.all():
        return Grid(seeds, questions, differences, weights), dropped
    seeds, questions = tuple(compress(seeds, rows)), tuple(compress(questions, columns))
    return Grid(seeds, questions, differences[rows][:, columns], weights[rows][:, columns]), dropped


def aligned(side: Grid, seeds: tuple[int, ...], questions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights on these questions, among which are its own, NaN for the others; and on these seeds, which it
    has, unless it has just one: that stands for all of them."""
    if (side.seeds, side.questions) == (seeds, questions):
        return side.values, side.weights
    rows = [0 if len(side.seeds) == 1 else side.seeds.index(seed) for seed in seeds]
    place = {question: i for i, question in enumerate(questions)}
    columns = [place[question] for question in side.questions]
    values, weights = np.full((2, len(seeds), len(questions)), np.nan)
    values[:, columns] = side.values[rows]
    weights[:, columns] = side.weights[rows]
    return values, weights


def paired_difference(
    a: Grid, b: Grid, level: float = LEVEL, draws: int = DRAWS, rng_seed: int = 0
) -> Difference | None:
    """How a differs from b on the same questions and seeds (see `pair`); None where they have nothing in common."""
    both, dropped = pair(a, b)
    if not both.seeds:
        return None
    interval = bootstrap_interval(both.values, both.weights, level, draws, rng_seed)
    return Difference(
        interval.value,
        interval.low,
        interval.high,
        sign_flip_p_value(both.values, both.weights, draws, rng_seed),
        len(both.seeds),
        len(both.questions),
        dropped,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the given order (Holm 1979): the i-th smallest of m, counted from 0,
    times (m - i), never below a smaller one's and never above 1."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def weighted_sums(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight times value, and weight, both 0 where there is no value."""
    missing = np.isnan(values)
    weights = np.where(missing, 0.0, 1.0 if weights is None else weights)
    return np.where(missing, 0.0, values) * weights, weights


@lru_cache(maxsize=2)  # all methods of a benchmark are resampled alike, at the price of one
def resamples(questions: int, draws: int, rng_seed: int) -> np.ndarray:
    """How often each question stands in each resample: (draws, questions). No count reaches 256 in practice: for
    more than 255 questions that has a probability below 1e-500."""
    rng = np.random.default_rng(rng_seed)
    counts = np.empty((draws, questions), dtype=np.uint8)
    step = max(1, CHUNK // questions)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picked = rng.integers(0, questions, (rows, questions)) + questions * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(picked.ravel(), minlength=rows * questions).reshape(rows, questions)
    counts.flags.writeable = False
    return counts


@lru_cache(maxsize=8)
def t_noise(freedom: int, draws: int, rng_seed: int) -> np.ndarray:
    """Student's t at evenly spaced probabilities in random order: its heavy tails would be rough if drawn."""
    ranks = np.random.default_rng([rng_seed, 1]).permutation(draws)
    noise = stdtrit(freedom, (ranks + 0.5) / draws)
    noise.flags.writeable = False
    return noise


def _resampled_means(weighted: np.ndarray, weights: np.ndarray, draws: int, rng_seed: int) -> np.ndarray:
    """The mean over seeds of the weighted means, of each resample of the questions; (draws,) or a few less: resamples
    without any value are left out, and seeds without a value do not count in theirs."""
    seeds, questions = weights.shape
    counts = resamples(questions, draws, rng_seed)
    columns = np.concatenate([weighted, weights]).T
    step = max(1, CHUNK // questions)
    sums = np.concatenate([counts[i : i + step].astype(float) @ columns for i in range(0, draws, step)])
    tops, bottoms = sums[:, :seeds], sums[:, seeds:]
    present = bottoms > 0
    means = np.where(present, tops, 0.0) / np.where(present, bottoms, 1.0)
    some = present.any(1)
    return means[some].sum(1) / present[some].sum(1)


def _random_flips(parts: np.ndarray, draws: int, rng_seed: int) -> np.ndarray:
    """Sums of `parts` under random signs, (draws,)."""
    rng = np.random.default_rng([rng_seed, 2])
    step = max(1, CHUNK // len(parts))
    kept = [
        rng.integers(0, 2, (min(step, draws - start), len(parts)), dtype=np.int8).astype(float) @ parts
        for start in range(0, draws, step)
    ]
    return 2 * np.concatenate(kept) - parts.sum()
