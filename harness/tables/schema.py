"""A table of scores: columns, rows and cells.

The dataclasses of a table are also its JSON, field by field (`harness.tables.json`): other programs read it, so their
fields keep their names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.benchmarks.base import Score
from harness.budget import Ledger, Spending
from harness.statistics.intervals import Difference, Interval
from harness.tables.reported import Reported
from harness.work import Rule


@dataclass(frozen=True)
class Tuning:
    """How the options of a method were chosen: the number of trials, and their FLOPs in all."""

    trials: int
    flops: float


@dataclass(frozen=True)
class ResultRow:
    """The stored results of a method.

    scores: benchmark -> seed -> score.
    ledgers: seed -> what was spent.
    seconds: seed -> wall time, {"training": data generation included, "scoring": ...}.
    tuning: how its options were chosen; None for defaults, or what the user set.
    warnings: text of a health warning -> the seeds that it is about.
    run: its run, in a table of several.
    trained_as: the method that the arm uses; its own name for an arm that is no variant.
    control_of: for a control, the method that it has to stay below.
    """

    method: str
    supervision: str
    scores: dict[str, dict[int, Score]]
    ledgers: dict[int, Ledger]
    seconds: dict[int, dict[str, float]]
    tuning: Tuning | None = None
    warnings: Mapping[str, Sequence[int]] = field(default_factory=dict)
    run: str | None = None
    trained_as: str | None = None
    control_of: str | None = None

    @cached_property
    def totals(self) -> tuple[Spending, ...]:
        """What each seed spent, over all roles."""
        return tuple(ledger.total for ledger in self.ledgers.values())


@dataclass(frozen=True)
class Column:
    """A benchmark of the table.

    judge: None where none is needed. setting: few-shot examples and chat, if the benchmark states them.
    clusters: how many independent questions there are (clusters of dependent ones count once); None where the stored
        scores do not name clusters.
    """

    name: str
    title: str
    metric: str
    judge: str | None
    setting: str | None = None
    clusters: int | None = None


@dataclass(frozen=True)
class Cell:
    """A method on a benchmark.

    value, low, high: mean over seeds and questions with its 95 % interval; NaN where there is none.
    by_seed: the mean of each seed. questions: how many have a value in any seed. asked: the most that a seed was asked.
    missing, unparsed: summed over the seeds.
    difference: to the baseline, on the same questions and seeds.
    p_holm: its p-value corrected for all differences of the table; None where there are too few seeds for a test (see
        `Difference.called`).
    rank, best: the place among the ranked methods, and whether it is significantly better than all others of them (see
        `harness.statistics.ranking`); None and False where fewer than two have enough seeds.
    length_controlled: the length-controlled win rate, mean over seeds, where scores have it.
    """

    value: float
    low: float
    high: float
    by_seed: dict[int, float]
    questions: int
    asked: int
    missing: int
    unparsed: int
    difference: Difference | None = None
    p_holm: float | None = None
    rank: int | None = None
    best: bool = False
    length_controlled: Interval | None = None


@dataclass(frozen=True)
class RunCost:
    """What a run of a method spent, mean over seeds.

    share_min, share_max: the smallest and largest share of the cap that a seed spent.
    flops: needed or nominal, by the rule of the table.
    wasted_flops: for padding and for finished sequences that wait for their batch; not part of flops.
    """

    cap_flops: float | None
    share_min: float | None
    share_max: float | None
    flops: float
    trained_tokens: float
    generated_tokens: float
    updates: float
    training_seconds: float
    scoring_seconds: float
    wasted_flops: float = 0.0


@dataclass(frozen=True)
class Row:
    """A method.

    ranked: whether it was trained and spent 95-100 % of the same cap as the others; if not, reason says why.
    """

    method: str
    supervision: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    spent: RunCost
    ranked: bool
    reason: str | None
    tuning: Tuning | None = None
    run: str | None = None


@dataclass(frozen=True)
class Table:
    """All rows, the baseline first.

    comparisons: how many differences to the baseline Holm's correction counts.
    pairs: how many pairs of ranked methods it counts, for ranks.
    detectable: benchmark -> the smallest difference between two ranked methods (or one and the baseline) that 80 % of
        experiments like this one would find, as a single comparison and after the correction for all.
    reported: published rows, shown below the others; they take part in no comparison.
    command: the command that made the table; None to leave it out.
    ledger: the rule by which FLOPs were counted; None where no row was trained.
    """

    title: str
    baseline: str
    testbed: bool
    benchmarks: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: int
    notes: tuple[str, ...]
    reported: tuple[Reported, ...] = ()
    pairs: int = 0
    command: str | None = None
    detectable: dict[str, tuple[float, float]] = field(default_factory=dict)
    ledger: Rule | None = None
