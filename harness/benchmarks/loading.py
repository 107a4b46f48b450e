"""Benchmarks by name: the one place that fills in what a benchmark's class leaves out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from harness.benchmarks.base import Benchmark, BenchmarkSize, HubTask, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files.data_files import DataFile, HubRows
from harness.types import Prompt


class CompleteBenchmark(Benchmark[Any, Any, Any], Protocol):
    """A benchmark with everything that `BenchmarkDefaults` has."""

    sections: str | None
    compares: bool
    scores_classifiers: bool
    packages: tuple[str, ...]
    data_files: tuple[DataFile | HubRows, ...]
    size: BenchmarkSize | None
    testbed_size: BenchmarkSize | None
    further: Mapping[str, str]
    parts: Mapping[str, str]

    def verdicts(self, judgment: Any) -> list[tuple[str, str]] | None: ...

    def is_open(self, judgment: Any) -> bool: ...

    def hub_task(self, options: Any) -> HubTask | None: ...

    question_fields: tuple[str, ...]

    def resources(self, data_dir: Path) -> dict[str, Path]: ...

    def clusters(self, items: list[Any]) -> dict[str, str]: ...

    def pairs(self, own: Sequence[Prompt] | None, settings: Settings) -> list[Prompt]: ...


def benchmarks_of(experiment: Experiment) -> dict[str, CompleteBenchmark]:
    """New instances of an experiment's benchmarks, by name."""
    return {name: load_benchmark(target) for name, target in experiment.targets("benchmark").items()}


def data_files() -> dict[str, tuple[DataFile | HubRows, ...]]:
    """Files of the installed benchmarks that have any, by benchmark."""
    found = {name: load_benchmark(name).data_files for name in registry.names("benchmark")}
    return {name: files for name, files in found.items() if files}


def titles(experiment: Experiment) -> dict[str, str]:
    """Name of a benchmark -> its title for people; a variant's has its name."""
    return {
        name: each.title if name == each.name else f"{each.title} ({name})"
        for name, each in benchmarks_of(experiment).items()
    }


def load_benchmark(target: str) -> CompleteBenchmark:
    """A new instance of a benchmark, by its installed name or as FILE.py:CLASS.

    A class that does not inherit `BenchmarkDefaults` gets a subclass of the same name that does.

    Raises:
        UserError: as `harness.experiment.registry.load`.
    """
    benchmark = registry.load("benchmark", target)
    if not isinstance(benchmark, BenchmarkDefaults):
        kind = type(benchmark)
        named = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        benchmark = type(kind.__name__, (kind, BenchmarkDefaults), named)()
    return cast(CompleteBenchmark, benchmark)
