"""A finished run as the report page needs it: the stored run, its table, and the training of each stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Score
from harness.budget import Ledger
from harness.endpoints.spend import SPENT
from harness.experiment.options import Experiment
from harness.files import store
from harness.results.folder import StoredRun
from harness.runs.arm import Arm
from harness.runs.run import arms_of
from harness.tables.schema import Table


@dataclass(frozen=True)
class StageReport:
    """The training of one stage of an arm: one row per update, and its health (empty where none is stored)."""

    method: str
    seed: int
    name: str
    history: list[dict[str, Any]]
    health: dict[str, Any]


@dataclass(frozen=True)
class ReportedRun:
    """A finished run with its table."""

    stored: StoredRun
    table: Table

    @classmethod
    def read(cls, path: Path) -> "ReportedRun":
        """
        Raises:
            UserError: when the folder is not a run folder, or the run is not finished.
        """
        stored = StoredRun.read(path)
        return cls(stored, stored.table())

    @property
    def path(self) -> Path:
        return self.stored.path

    @property
    def experiment(self) -> Experiment:
        return self.stored.experiment

    @property
    def versions(self) -> dict[str, Any]:
        return self.stored.versions

    @cached_property
    def arms(self) -> list[Arm]:
        return arms_of(self.experiment, self.stored.folder)

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the table."""
        return tuple(row.method for row in self.table.rows)

    @cached_property
    def scores(self) -> dict[str, dict[str, dict[int, Score]]]:
        """Benchmark -> method -> seed -> score, without those that a method left out."""
        names = [column.name for column in self.table.benchmarks]
        rows = self.stored.rows
        return {name: {row.method: row.scores[name] for row in rows if row.scores.get(name)} for name in names}

    @property
    def ledgers(self) -> dict[str, dict[int, Ledger]]:
        """Method -> seed -> what was spent, in the order of the table."""
        by_method = {row.method: row.ledgers for row in self.stored.rows}
        return {method: by_method[method] for method in self.methods}

    @cached_property
    def stages(self) -> list[StageReport]:
        """All stages of all arms, in the order in which they were trained."""
        return [stage for arm in self.arms for stage in _stages(arm)]

    @property
    def judge_spending(self) -> dict[str, float] | None:
        """{"calls", "usd"} of a judge behind an endpoint; None without one."""
        file = self.stored.folder.judge_log / SPENT
        if not file.exists():
            return None
        spent = store.read_json(file)
        return {"calls": spent["calls"], "usd": spent["usd"]}

    @property
    def finished(self) -> datetime:
        """When the latest score was written."""
        files = [arm.folder.score(name) for arm in self.arms for name in self.experiment.benchmark_names()]
        return datetime.fromtimestamp(max(file.stat().st_mtime for file in files if file.exists()))


def _stages(arm: Arm) -> Iterator[StageReport]:
    for stage in arm.stages:
        history, health = arm.folder.history(stage.name), arm.folder.health(stage.name)
        yield StageReport(
            arm.name,
            arm.seed,
            stage.name,
            store.read_jsonl(history) if history.is_file() else [],
            store.read_json(health) if health.exists() else {},
        )
