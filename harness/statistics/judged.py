"""Intervals, differences to a baseline, corrected p-values and ranks of all methods on all benchmarks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harness.statistics.intervals import Difference, Grid, Interval, differences, holm, intervals
from harness.statistics.ranking import Ranking, rank


@dataclass(frozen=True)
class Judged:
    """What is said of methods on benchmarks: benchmark -> method -> each, but for p_holm, which has the key
    (benchmark, method). The baseline has no difference."""

    intervals: dict[str, dict[str, Interval | None]]
    differences: dict[str, dict[str, Difference | None]]
    p_holm: dict[tuple[str, str], float]
    ranking: Ranking


def judge(
    grids: Mapping[str, Mapping[str, Grid]],
    baseline: str,
    ranked: Collection[str],
    limits: Mapping[str, tuple[float, float] | None],
) -> Judged:
    """All intervals, differences to the baseline, corrected p-values and ranks of a table.

    Args:
        grids: benchmark -> method -> values.
        limits: benchmark -> the lowest and the highest value of a question, if any.
    """
    shown, apart = {}, {}
    for name, own in grids.items():
        others = [method for method in own if method != baseline]
        shown[name] = dict(zip(own, intervals(list(own.values()), limits.get(name)), strict=True))
        found = differences([(own[method], own[baseline]) for method in others])
        apart[name] = dict(zip(others, found, strict=True))
    called = [(name, method) for name, own in apart.items() for method, each in own.items() if each and each.called]
    adjusted = holm([apart[name][method].p_value for name, method in called])
    compared = {name: {method: each for method, each in own.items() if method in ranked} for name, own in grids.items()}
    return Judged(shown, apart, dict(zip(called, adjusted, strict=True)), rank(compared))
