"""How much differences vary, from a finished run or a reference of the gate: what a plan of a run rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from harness.errors import UserError, unknown_name
from harness.regression import reference
from harness.results.folder import StoredRun
from harness.statistics.intervals import Grid, pair
from harness.statistics.power import Variance, variance
from harness.tables.build import grid_of

BASE = "base"


@dataclass(frozen=True)
class Pilot:
    """Of a benchmark: the variance of differences, on average over pairs of methods; how many seeds and independent
    questions it was seen in, and seconds of a training run and of an answer where they are known."""

    benchmark: str
    variance: Variance
    pairs: tuple[str, ...]
    seeds: int
    questions: int
    run_seconds: float | None = None
    answer_seconds: float | None = None


def pilots(path: Path, methods: Sequence[str] = ()) -> list[Pilot]:
    """Of each benchmark of a run folder, or of a reference (a JSON file).

    Args:
        methods: the two that are compared; none named: every pair of trained methods, or the only one with the base.

    Raises:
        UserError: when there is no such run, method or pair.
    """
    grids, seconds = _of_reference(path) if path.is_file() else _of_run(path)
    known = list(dict.fromkeys(method for own in grids.values() for method in own))
    for name in methods:
        if name not in known:
            raise unknown_name("method", name, known)
    trained = [name for name in known if name != BASE]
    chosen = list(methods) or (trained if len(trained) > 1 else known)
    found = []
    for benchmark, own in grids.items():
        pairs = [(a, b) for a, b in combinations([name for name in chosen if name in own], 2)]
        both = {f"{a} - {b}": pair(own[a], own[b])[0] for a, b in pairs}
        if both := {name: each for name, each in both.items() if len(each.questions) > 1}:
            found.append(_pilot(benchmark, both, *seconds.get(benchmark, (None, None))))
    if not found:
        raise UserError(f"{path} has no two methods with questions in common: give --methods A,B")
    return found


def _pilot(benchmark: str, both: Mapping[str, Grid], run_seconds: float | None, answer_seconds: float | None) -> Pilot:
    parts = [variance(each.values, each.weights, each.clusters) for each in both.values()]
    average = Variance(*(fmean(getattr(part, name) for part in parts) for name in ("question", "rest", "seed")))
    seeds = min(len(each.seeds) for each in both.values())
    questions = max(len(set(each.clusters or each.questions)) for each in both.values())
    return Pilot(benchmark, average, tuple(both), seeds, questions, run_seconds, answer_seconds)


def _of_reference(path: Path) -> tuple[dict[str, dict[str, Grid]], dict]:
    found = reference.read(path)
    names = next(iter(next(iter(found.arms.values())).values())).scores
    return {name: {arm: found.grid(arm, name) for arm in found.arms} for name in names}, {}


def _of_run(path: Path) -> tuple[dict[str, dict[str, Grid]], dict[str, tuple[float, float]]]:
    rows = StoredRun.read(path).rows
    names = dict.fromkeys(name for row in rows for name in row.scores)
    grids = {name: {row.method: grid_of(row.scores[name]) for row in rows if name in row.scores} for name in names}
    trained = [each for row in rows if row.method != BASE for each in row.seconds.values()]
    if not trained:
        return grids, {}
    run_seconds = fmean(each["training"] for each in trained)
    asked = sum(max((len(each.questions) for each in own.values()), default=0) for own in grids.values())
    answer_seconds = fmean(each["scoring"] for each in trained) / max(1, asked)
    return grids, dict.fromkeys(names, (run_seconds, answer_seconds))
