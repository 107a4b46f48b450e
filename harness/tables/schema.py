"""A table of scores: columns, rows and cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.benchmarks.base import Score
from harness.statistics.intervals import Difference, Interval
from harness.tables.reported import Reported
from harness.work import Rule


@dataclass(frozen=True)
class Tuning:
    """How a method's options were chosen: in so many trials, which cost so many FLOPs."""

    trials: int
    flops: float


@dataclass(frozen=True)
class ResultRow:
    """What is stored of a method: benchmark -> seed -> score, and seed -> ledger (`Ledger.as_dict`) and wall seconds
    ({"training": data generation included, "scoring": ...}).

    tuning: how its options were chosen; None for defaults, or what the user set.
    warnings: of the health of its training, as texts -> the seeds that they are about.
    run: the run it is of, where a table has several.
    """

    method: str
    supervision: str
    scores: dict[str, dict[int, Score]]
    ledgers: dict[int, dict]
    seconds: dict[int, dict[str, float]]
    tuning: Tuning | None = None
    warnings: Mapping[str, Sequence[int]] = field(default_factory=dict)
    run: str | None = None


@dataclass(frozen=True)
class Column:
    """A benchmark of the table; judge is None where none is needed. setting: few-shot examples and chat, if it says.

    clusters: how many questions are independent of each other; None where stored scores do not say what hangs together.
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
    difference: to the baseline, on the same questions and seeds; p_holm is its p-value adjusted for all of the table,
        None where there are too few seeds to call it (see `Difference.called`).
    rank: among the ranked methods, best: significantly better than all others of them (see
        `harness.statistics.ranking`); None and False where there are not two with seeds enough to compare.
    length_controlled: AlpacaEval's length-controlled win rate, mean over seeds, where scores have it.
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
    """What a run of a method spent, mean over seeds; share_min and share_max of the cap are over the seeds.

    flops: needed or nominal, by the table's rule. wasted_flops: for padding and finished sequences that wait, beside
        them.
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
    """A method. ranked: it was trained and spent 95-100 % of the same cap as the others; else reason says why not."""

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

    comparisons: how many p-values of differences to the baseline Holm's correction counts.
    pairs: how many of pairs of ranked methods, for ranks.
    detectable: benchmark -> the smallest difference of two ranked methods (or of one and the baseline) that is found in
        80 % of experiments like this one, in one comparison alone and after the correction for all.
    reported: published rows to stand below; they take part in no comparison.
    command: what has made the table, where that is to stand in it.
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
