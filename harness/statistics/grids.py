"""Values of methods on questions: grids of seeds x questions, and how two grids are matched for a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
LEAST_SEEDS = 3  # on both sides of a difference; with fewer, too little is known of other training runs to test it


@dataclass(frozen=True)
class Grid:
    """Values of one method on one benchmark.

    values, weights: (seeds, questions), with NaN where there is no value.
    clusters: the cluster of each question (questions that depend on each other); empty where all are independent.
    """

    seeds: tuple[int, ...]
    questions: tuple[str, ...]
    values: Floats
    weights: Floats
    clusters: tuple[str, ...] = ()


def grid(
    values: Mapping[int, Mapping[str, float]],
    weights: Mapping[int, Mapping[str, float]] | None = None,
    clusters: Mapping[str, str] | None = None,
) -> Grid:
    """Make a grid; seeds without any value are left out.

    Args:
        values: seed -> question -> value.
        weights: seed -> question -> weight, 1 for a question that is not there.
        clusters: question -> cluster; a question that is not there is independent of the others.
    """
    seeds = tuple(sorted(seed for seed, by_question in values.items() if by_question))
    asked = dict.fromkeys(tuple(values[seed]) for seed in seeds)  # usually the same for all seeds
    questions = tuple(sorted(set().union(*asked)))

    def table(source: Mapping[int, Mapping[str, float]], default: float) -> Floats:
        blank = [default] * len(questions)
        by_seed = [source.get(seed) for seed in seeds]
        rows = [list(map(known.get, questions, repeat(default))) if known else blank for known in by_seed]
        array: Floats = np.array(rows, dtype=float).reshape(len(seeds), len(questions))
        return array

    named = tuple(f"cluster {clusters[each]}" if each in clusters else each for each in questions) if clusters else ()
    return Grid(seeds, questions, table(values, np.nan), table(weights or {}, 1.0), named)


def mean(values: Floats, weights: Floats | None = None) -> float:
    """The mean over seeds of each seed's weighted mean over its questions: every run counts once.

    Args:
        values, weights: (seeds, questions).
    """
    weighted, weights = weighted_sums(values, weights)
    return float(np.mean(weighted.sum(1) / weights.sum(1)))


def weighted_sums(values: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    """Weight times value, and weight, both 0 where there is no value."""
    missing = np.isnan(values)
    weights = np.where(missing, 0.0, 1.0 if weights is None else weights)
    return np.where(missing, 0.0, values) * weights, weights


@dataclass(frozen=True)
class Match:
    """What is compared of two methods: the differences run by run, or two sides on the same questions.

    first: the differences, or the first side. other: the second side; None where the runs are paired.
    dropped: how many values have no counterpart.
    """

    first: Grid
    other: Grid | None
    dropped: int

    @property
    def seeds(self) -> int:
        """How many seeds there are, on the side that has fewer."""
        return len(self.first.seeds) if self.other is None else min(len(self.first.seeds), len(self.other.seeds))


def match(a: Grid, b: Grid) -> Match | None:
    """Match two methods: run by run if they have the same seeds, LEAST_SEEDS in common, or one each; otherwise with all
    seeds of both.

    None where no question has a value on both sides. Where the weights of both sides differ, their mean counts.
    """
    if not (a.seeds and b.seeds):
        return None
    common = tuple(sorted(set(a.seeds) & set(b.seeds)))
    single = len(a.seeds) == len(b.seeds) == 1
    if single or common == a.seeds == b.seeds or len(common) >= LEAST_SEEDS:
        both, dropped = pair(a, b)
        return Match(both, None, dropped) if both.seeds else None
    questions, clusters = _questions_of(a, b)
    sides = [aligned(each, each.seeds, questions) for each in (a, b)]
    answered = [~np.isnan(values).all(0) for values, _ in sides]
    columns = answered[0] & answered[1]
    if not columns.any():
        return None
    dropped = int(sum((~np.isnan(values[:, ~columns])).sum() for values, _ in sides))
    shared = np.nanmean(np.concatenate([weights for _, weights in sides])[:, columns], axis=0)
    grids = []
    for side, (values, _) in zip((a, b), sides, strict=True):
        values = values[:, columns]
        rows = ~np.isnan(values).all(1)
        if not rows.any():
            return None
        weights = np.broadcast_to(shared, values[rows].shape)
        seeds = tuple(compress(side.seeds, rows))
        kept = tuple(compress(questions, columns)), tuple(compress(clusters, columns))
        grids.append(Grid(seeds, kept[0], values[rows], weights, kept[1]))
    return Match(grids[0], grids[1], dropped)


def pair(a: Grid, b: Grid) -> tuple[Grid, int]:
    """The differences a - b on the seeds and questions that both have, and how many values had no counterpart.

    Two sides with one seed each are two models, whatever their seeds.
    """
    single = len(a.seeds) == len(b.seeds) == 1
    seeds = a.seeds if single else tuple(sorted(set(a.seeds) & set(b.seeds)))
    questions, clusters = _questions_of(a, b)
    (values_a, weights_a), (values_b, weights_b) = aligned(a, seeds, questions), aligned(b, seeds, questions)
    differences, weights = values_a - values_b, (weights_a + weights_b) / 2
    dropped = int((np.isnan(values_a) != np.isnan(values_b)).sum())
    answered = ~np.isnan(differences)
    rows, columns = answered.any(1), answered.any(0)
    if rows.all() and columns.all():
        return Grid(seeds, questions, differences, weights, clusters), dropped
    kept = Grid(
        tuple(compress(seeds, rows)),
        tuple(compress(questions, columns)),
        differences[rows][:, columns],
        weights[rows][:, columns],
        tuple(compress(clusters, columns)),
    )
    return kept, dropped


def aligned(side: Grid, seeds: Sequence[int], questions: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Values and weights (seeds, questions) of a grid, NaN for questions that it does not have.

    Args:
        seeds: among its own; a grid with one seed stands for any one.
        questions: its own and others.
    """
    if (side.seeds, side.questions) == (seeds, questions):
        return side.values, side.weights
    rows = [0 if len(side.seeds) == 1 else side.seeds.index(seed) for seed in seeds]
    place = {question: i for i, question in enumerate(questions)}
    columns = [place[question] for question in side.questions]
    values, weights = np.full((2, len(seeds), len(questions)), np.nan)
    values[:, columns] = side.values[rows]
    weights[:, columns] = side.weights[rows]
    return values, weights


def _questions_of(a: Grid, b: Grid) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All questions of two sides, and their clusters."""
    if a.questions == b.questions and (a.clusters == b.clusters or not b.clusters):
        return a.questions, a.clusters
    questions = tuple(sorted(set(a.questions) | set(b.questions)))
    named = {question: name for side in (b, a) for question, name in zip(side.questions, side.clusters, strict=False)}
    return questions, tuple(named.get(each, each) for each in questions) if named else ()
