"""Experiments from Python: run one, or load a finished one, and get its scores as data frames of pandas."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.options import check_data
from harness.commands.report import write_report
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store, typed
from harness.files.disk import disk_errors
from harness.results.folder import StoredRun
from harness.runs.run import run as carry_out
from harness.tables.html import to_fragment
from harness.tables.markdown import to_markdown
from harness.tables.schema import Table

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS = Path("results")


class Run:
    """A finished run.

    path: its folder. experiment: what was asked for. table: what `harness table` prints, as
    `harness.tables.schema.Table`; a notebook shows it in place of the run.
    """

    def __init__(self, stored: StoredRun):
        self._stored = stored
        self.path, self.experiment = stored.path, stored.experiment

    @cached_property
    def table(self) -> Table:
        return self._stored.table()

    @property
    def scores(self) -> "DataFrame":
        """A row per method, seed, benchmark and question, with its value; NaN where a question has no verdict."""
        return _frame(("method", "seed", "benchmark", "question", "value"), self._values())

    @property
    def ledger(self) -> "DataFrame":
        """A row per method, seed and role (generate, judge, train ...), with what it spent: the fields of
        `harness.budget.Spending`."""
        rows = [
            {"method": row.method, "seed": seed, "role": role, **asdict(spent)}
            for row in self._stored.rows
            for seed, ledger in row.ledgers.items()
            for role, spent in ledger.roles.items()
        ]
        return _frame(tuple(rows[0]) if rows else ("method", "seed", "role"), [tuple(row.values()) for row in rows])

    def differences(self, baseline: str = "base") -> "DataFrame":
        """A row per other method and benchmark: the mean difference to the baseline on the same questions and seeds,
        its 95 % interval, its two-sided p-value, and that corrected by Holm for all rows (NaN below three seeds).

        Raises:
            UserError: when the run has no such method.
        """
        rows = [
            (row.method, name, found.value, found.low, found.high, found.p_value, cell.p_holm, found.questions)
            for row in self._stored.table(baseline).rows
            for name, cell in row.cells.items()
            if (found := cell.difference)
        ]
        columns = ("method", "benchmark", "difference", "low", "high", "p_value", "p_holm", "questions")
        return _frame(columns, rows).astype({"p_holm": float})

    def report(self, output: str | os.PathLike[str] | None = None) -> Path:
        """Write the report page, by default report.html in the folder of the run; return the file."""
        return write_report(self.path, Path(output) if output else None)

    def _values(self) -> Iterator[tuple[str, int, str, str, float]]:
        for row in self._stored.rows:
            for benchmark, by_seed in row.scores.items():
                for seed, score in by_seed.items():
                    samples = self._stored.folder.arm(row.method, seed).samples(benchmark)
                    asked = [str(each["id"]) for each in store.iterate_jsonl(samples)] if samples.exists() else []
                    for question in dict.fromkeys([*asked, *score.values]):
                        yield row.method, seed, benchmark, question, score.values.get(question, float("nan"))

    def __repr__(self) -> str:
        return to_markdown(self.table)

    def _repr_html_(self) -> str:
        return to_fragment(self.table)


def run(
    experiment: Experiment | None = None,
    *,
    results: str | os.PathLike[str] = RESULTS,
    jobs: int = 1,
    ray: str | None = None,
    restart_from: str | None = None,
    **options: Any,
) -> Run:
    """Train methods under one budget, score them, and return the finished run.

    Everything is kept in RESULTS/runs/NAME. A second call with the same options reuses it.

    Args:
        experiment: what to run; or give the fields of an `Experiment` as options: methods="sso,dpo", limit=8.
        results: folder of results.
        jobs: arms (method x seed) that run concurrently, one process each; a script then needs its calls below
            `if __name__ == "__main__"`.
        ray, restart_from: as `harness run` has them.

    Raises:
        UserError: for anything that the user can fix; nothing that was finished is lost.
        Stopped: for SIGINT and SIGTERM.
    """
    if experiment is not None and options:
        raise UserError(f"give an Experiment or options, not both: {', '.join(options)}")
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}")
    if experiment is None:
        experiment = typed.build(Experiment, options, "option")
        check_data(experiment, options, options)
    with disk_errors():
        carry_out(experiment, Path(results), jobs, restart_from, ray)
        return load_run(Path(results) / "runs" / experiment.name)


def load_run(name: str | os.PathLike[str], results: str | os.PathLike[str] = RESULTS) -> Run:
    """Return a finished run, by its name below RESULTS/runs or by its folder.

    Raises:
        UserError: when there is no such run, or it is not finished.
    """
    place = Path(results) / "runs" / name
    by_name = "/" not in str(name) and not os.path.exists(name) and place.is_dir()
    return Run(StoredRun.read(place if by_name else Path(name)))


def _frame(columns: tuple[str, ...], rows: Any) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(list(rows), columns=list(columns))
