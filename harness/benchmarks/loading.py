"""Benchmarks by name: the one place that fills in what a benchmark's class leaves out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from harness.benchmarks.base import Benchmark, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.experiment import registry
from harness.types import Prompt


class CompleteBenchmark(Benchmark[Any, Any, Any], Protocol):
    """A benchmark with everything that `BenchmarkDefaults` has."""

    sections: str | None

    def resources(self, data_dir: Path) -> dict[str, Path]: ...

    def clusters(self, items: list[Any]) -> dict[str, str]: ...

    def pairs(self, own: Sequence[Prompt] | None, settings: Settings) -> list[Prompt]: ...


def load_benchmark(name: str) -> CompleteBenchmark:
    """A new instance of a registered benchmark.

    A class that does not inherit `BenchmarkDefaults` gets a subclass of the same name that does.

    Raises:
        UserError: when the name is not known; the nearest one is suggested.
    """
    benchmark = registry.load("benchmark", name)
    if not isinstance(benchmark, BenchmarkDefaults):
        kind = type(benchmark)
        named = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        benchmark = type(kind.__name__, (kind, BenchmarkDefaults), named)()
    return cast(CompleteBenchmark, benchmark)
