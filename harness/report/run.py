"""What the report page is made from, read from the files of a finished run."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Score
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.marks import Folder
from harness.results.folder import read_experiment, table_of
from harness.runs.arm import Arm
from harness.runs.run import arms_of
from harness.tables.schema import Table


@dataclass(frozen=True)
class StageReport:
    """The training of one stage of an arm: a row for each update, and its health (empty where none is stored)."""

    method: str
    seed: int
    name: str
    history: list[dict]
    health: dict


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    experiment: Experiment
    table: Table
    versions: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """
        Raises:
            UserError: when the folder holds no run, or one that is not finished.
        """
        return cls(path, read_experiment(path), table_of(path), store.read_json(path / "versions.json"))

    @cached_property
    def arms(self) -> list[Arm]:
        return arms_of(self.experiment, Folder(self.path))

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the table."""
        return tuple(row.method for row in self.table.rows)

    @cached_property
    def scores(self) -> dict[str, dict[str, dict[int, Score]]]:
        """Benchmark -> method -> seed -> score; what was left out is absent."""
        found: dict[str, dict[str, dict[int, Score]]] = {column.name: {} for column in self.table.benchmarks}
        for arm in self.arms:
            for name, by_method in found.items():
                file = arm.folder / "scores" / f"{name}.json"
                if file.exists():
                    by_method.setdefault(arm.name, {})[arm.seed] = Score(**store.read_json(file))
        return found

    @cached_property
    def ledgers(self) -> dict[str, dict[int, dict]]:
        """Method -> seed -> what was spent."""
        found: dict[str, dict[int, dict]] = {name: {} for name in self.methods}
        for arm in self.arms:
            found[arm.name][arm.seed] = store.read_json(arm.folder / "ledger.json")
        return found

    @cached_property
    def stages(self) -> list[StageReport]:
        """All stages of all arms, in the order in which they were trained."""
        return [stage for arm in self.arms for stage in _stages(arm)]

    @property
    def judge_spending(self) -> dict[str, float] | None:
        """{"calls", "usd"} of a judge behind an endpoint, None where there was none."""
        file = self.path / "judge" / "spent.json"
        if not file.exists():
            return None
        spent = store.read_json(file)
        return {"calls": spent["calls"], "usd": spent["usd"]}

    @property
    def finished(self) -> datetime:
        """When the youngest score was written."""
        files = (self.path / "arms").glob("*/scores/*.json")
        return datetime.fromtimestamp(max(file.stat().st_mtime for file in files))


def _stages(arm: Arm) -> Iterator[StageReport]:
    for stage in arm.stages:
        history, health = arm.folder / "training" / f"{stage.name}.jsonl", arm.folder / "health" / f"{stage.name}.json"
        yield StageReport(
            arm.name,
            arm.seed,
            stage.name,
            store.read_jsonl(history) if history.is_file() else [],
            store.read_json(health) if health.exists() else {},
        )
