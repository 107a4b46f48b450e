"""Scores along the way: each method of a run at fractions of its budget and at the end, and the Pareto front.

Nothing is tested here: a method has as many chances to look good as it has checkpoints.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from harness.benchmarks.base import Score, limits_of, step_names
from harness.benchmarks.loading import benchmarks_of
from harness.budget import Ledger
from harness.errors import UserError
from harness.files.folders import CHECKPOINT, SCORES
from harness.results.folder import FINISH, StoredRun, check_there
from harness.statistics.intervals import Interval, intervals
from harness.statistics.pareto import on_front
from harness.tables.build import grid_of

NOTE = (  # of every list of these scores
    "Mean over questions and seeds, with its 95 % interval. Nothing is tested between checkpoints; the table of final "
    "scores has the tests."
)
FRONT = (
    "On the Pareto front: no other method or checkpoint has a score at least as high for at most as many FLOPs. Chance "
    "decides between scores whose intervals overlap."
)
BETWEEN = (
    "A checkpoint is the policy that a run had when it had spent this fraction of its budget. FLOPs are what it had "
    "spent when it had this policy: less than the fraction where the run was making its next examples then."
)


@dataclass(frozen=True)
class Point:
    """The policies of a method at a fraction of the budget, over the seeds that have one.

    fraction: 1 at the end, 0 for a model that is not trained.
    flops, updates: what was spent when the method had this policy, mean over seeds.
    scores: benchmark -> mean over questions and seeds; None where no question has a value.
    missing: benchmark -> questions without a value, over all seeds.
    front: the benchmarks on whose Pareto front it is.
    """

    method: str
    fraction: float
    seeds: tuple[int, ...]
    flops: float
    updates: float
    scores: dict[str, Interval | None]
    missing: dict[str, int]
    front: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A fraction at which a method has no policy of its own, with the reason."""

    method: str
    fraction: float
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Along:
    """points: by method, in the order of the table, then by fraction."""

    points: tuple[Point, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def notes(self) -> list[str]:
        """What a reader of these scores has to know."""
        fractions: dict[tuple[str, tuple[int, ...], str], list[str]] = defaultdict(list)
        for each in self.left_out:
            fractions[each.method, each.seeds, each.reason].append(f"{each.fraction:g}")
        none = (
            f"{method} has no checkpoint at {', '.join(those)} (seed {', '.join(map(str, seeds))}): {reason}."
            for (method, seeds, reason), those in fractions.items()
        )
        return [NOTE, FRONT, BETWEEN, *none]


def along(run: StoredRun) -> Along:
    """The scores of a run along the way.

    Raises:
        UserError: when the run has no checkpoints, or they are not finished.
    """
    fractions = run.experiment.fractions
    if not fractions:
        raise UserError(
            f"{run.path} has no checkpoints along the way: make a run with harness run --checkpoints 0.25,0.5"
        )
    points: list[Point] = []
    left_out: list[LeftOut] = []
    for row in run.rows:
        trained = bool(run.experiment.stages(row.method))
        if trained:
            for fraction in fractions:
                found, none = _read(run, row.method, fraction)
                points += [found] if found else []
                left_out += none
        ledgers = {seed: ledger.as_dict() for seed, ledger in row.ledgers.items()}
        points.append(_point(row.method, 1.0 if trained else 0.0, ledgers, row.scores))
    return Along(tuple(_with_fronts(points)), tuple(left_out))


def _read(run: StoredRun, method: str, fraction: float) -> tuple[Point | None, list[LeftOut]]:
    ledgers: dict[int, dict[str, Any]] = {}
    scores: dict[str, dict[int, Score]] = defaultdict(dict)
    none: dict[str, list[int]] = defaultdict(list)
    for seed in range(run.experiment.seeds):
        folder = run.folder.arm(method, seed).along(fraction)
        mark = run.reader.mark(folder, CHECKPOINT)
        if mark is None:
            raise UserError(f"{folder.path} has no mark of step {CHECKPOINT}: {FINISH}")
        if reason := mark.facts.get("none"):
            none[reason].append(seed)
            continue
        ledgers[seed] = mark.facts["ledger"]
        for name, benchmark in benchmarks_of(run.experiment).items():
            if benchmark.needs_pairs:
                continue
            scored = run.reader.mark(folder, step := step_names(name)[1])
            if scored is None:
                raise UserError(f"{folder.path} has no mark of step {step}, so that score is not finished: {FINISH}")
            check_there(folder, scored, SCORES)
            scores[name][seed] = run.reader.score(folder.score(name))
    left_out = [LeftOut(method, fraction, tuple(seeds), reason) for reason, seeds in none.items()]
    return (_point(method, fraction, ledgers, scores) if ledgers else None), left_out


def _point(
    method: str, fraction: float, ledgers: Mapping[int, dict[str, Any]], scores: Mapping[str, dict[int, Score]]
) -> Point:
    """
    Args:
        ledgers: seed -> what it had spent. scores: benchmark -> seed -> score.
    """
    spent = [Ledger.from_dict(each).total for each in ledgers.values()]
    return Point(
        method,
        fraction,
        tuple(sorted(ledgers)),
        flops=fmean(each.flops for each in spent),
        updates=fmean(each.updates for each in spent),
        scores={name: _mean(by_seed) for name, by_seed in scores.items()},
        missing={
            name: sum(each.missing + each.unparsed for each in by_seed.values()) for name, by_seed in scores.items()
        },
    )


def _mean(scores: Mapping[int, Score]) -> Interval | None:
    (metric,) = {score.metric for score in scores.values()}
    (found,) = intervals([grid_of(scores)], limits_of(metric))
    return found


def _with_fronts(points: list[Point]) -> Iterator[Point]:
    fronts: dict[int, list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for point in points for name in point.scores):
        known = [(place, score.value) for place, point in enumerate(points) if (score := point.scores.get(name))]
        flags = on_front([(points[place].flops, value) for place, value in known])
        for (place, _), front in zip(known, flags, strict=True):
            if front:
                fronts[place].append(name)
    for place, point in enumerate(points):
        yield replace(point, front=tuple(fronts[place]))
