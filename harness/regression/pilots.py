"""How much differences vary in a finished run or a reference of the gate, to plan another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from harness.errors import UserError, unknown_name
from harness.regression import reference
from harness.results.folder import StoredRun
from harness.statistics.grids import Grid, pair
from harness.statistics.power import Variance, variance
from harness.tables.build import grid_of

BASE = "base"


@dataclass(frozen=True)
class Pilot:
    """The variance of differences on a benchmark, on average over pairs of methods.

    pairs: "A - B" for each. seeds, questions: how many seeds and independent questions it was estimated from.
    run_seconds, answer_seconds: time of a training run and of an answer; None where it is unknown.
    """

    benchmark: str
    variance: Variance
    pairs: tuple[str, ...]
    seeds: int
    questions: int
    run_seconds: float | None = None
    answer_seconds: float | None = None


def pilots(path: Path, methods: Sequence[str] = ()) -> list[Pilot]:
    """One pilot per benchmark of a run folder, or of a reference (a JSON file).

    Args:
        methods: the methods to compare; by default each pair of trained methods, or the only one with the base.

    Raises:
        UserError: when there is no such run, method or pair.
    """
    grids, seconds = _of_reference(path) if path.is_file() else _of_run(path)
    known = list(dict.fromkeys(method for by_method in grids.values() for method in by_method))
    for name in methods:
        if name not in known:
            raise unknown_name("method", name, known)
    trained = [name for name in known if name != BASE]
    chosen = list(methods) or (trained if len(trained) > 1 else known)
    found = []
    for benchmark, by_method in grids.items():
        pairs = combinations([name for name in chosen if name in by_method], 2)
        both = {f"{a} - {b}": pair(by_method[a], by_method[b])[0] for a, b in pairs}
        if both := {name: each for name, each in both.items() if len(each.questions) > 1}:
            found.append(_pilot(benchmark, both, *seconds.get(benchmark, (None, None))))
    if not found:
        raise UserError(f"{path} has no two methods with common questions: give --methods A,B")
    return found


def _pilot(benchmark: str, both: Mapping[str, Grid], run_seconds: float | None, answer_seconds: float | None) -> Pilot:
    parts = [variance(each.values, each.weights, each.clusters) for each in both.values()]
    average = Variance(*(fmean(getattr(part, name) for part in parts) for name in ("question", "rest", "seed")))
    seeds = min(len(each.seeds) for each in both.values())
    questions = max(len(set(each.clusters or each.questions)) for each in both.values())
    return Pilot(benchmark, average, tuple(both), seeds, questions, run_seconds, answer_seconds)


def _of_reference(path: Path) -> tuple[dict[str, dict[str, Grid]], dict[str, tuple[float, float]]]:
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
    asked = sum(max((len(grid.questions) for grid in by_method.values()), default=0) for by_method in grids.values())
    answer_seconds = fmean(each["scoring"] for each in trained) / max(1, asked)
    return grids, dict.fromkeys(names, (run_seconds, answer_seconds))
