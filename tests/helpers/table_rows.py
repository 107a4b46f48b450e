"""Rows of comparison tables, made from values."""

from harness.benchmarks.base import Score
from harness.budget import Ledger
from harness.tables.schema import ResultRow

PARAMETERS = 1_000_000


def score(values: list[float | None], benchmark: str = "mt-bench", metric: str = "score (1-10)", **rest) -> Score:
    """A score of the questions 0, 1, ...; None is counted as missing."""
    present = {str(i): value for i, value in enumerate(values) if value is not None}
    given = {"questions": len(values), "missing": len(values) - len(present)} | rest
    return Score(benchmark, metric, sum(present.values()) / len(present), present, **given)


def ledger(cap: float | None, trained: int, generated: int = 0, updates: int = 0) -> Ledger:
    spent = Ledger(cap)
    if trained:
        spent.charge("generate", 2 * PARAMETERS * generated, generated_tokens=generated)
        spent.charge("train", 6 * PARAMETERS * trained, trained_tokens=trained, updates=updates)
    return spent


def row(
    method: str,
    scores: dict,
    ledgers: list[Ledger] | None = None,
    supervision: str = "none",
    control_of: str | None = None,
) -> ResultRow:
    """Scores: benchmark -> score of each seed. Without ledgers the method is trained for 97 % of 1e12 FLOPs."""
    seeds = max(map(len, scores.values()))
    ledgers = ledgers or [ledger(1e12, 0 if method == "base" else 161_700)] * seeds
    return ResultRow(
        method,
        supervision,
        {name: dict(enumerate(each)) for name, each in scores.items()},
        dict(enumerate(ledgers)),
        {seed: {"training": 90.0, "scoring": 5.0} for seed in range(seeds)},
        trained_as=method,
        control_of=control_of,
    )


def cells(table) -> dict[str, dict]:
    return {each.method: each.cells for each in table.rows}
