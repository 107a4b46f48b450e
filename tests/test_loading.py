"""A benchmark may leave out what `BenchmarkDefaults` has, whether it inherits it or not."""

import pytest

from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.loading import load_benchmark
from harness.experiment import registry
from harness.files.sources import Part


class Plain:
    """As a plugin of someone else."""

    name = title = "plain"
    turns = 3

    def clusters(self, items):
        return {item["id"]: "all" for item in items}


class Inheriting(BenchmarkDefaults):
    name = title = "inheriting"


@pytest.mark.parametrize("kind", [Plain, Inheriting])
def test_what_a_class_lacks_is_filled_in(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "load", lambda group, name: kind())
    benchmark = load_benchmark(kind.name)
    assert isinstance(benchmark, kind) and vars(benchmark) == {}
    assert (benchmark.needs_judge, benchmark.needs_pairs, benchmark.needs_logprobs) == (False, False, False)
    assert benchmark.sections is None and benchmark.resources(tmp_path) == {} and benchmark.Options()
    assert benchmark.turns == (3 if kind is Plain else 1)
    assert benchmark.clusters([{"id": "a"}]) == ({"a": "all"} if kind is Plain else {})


def test_the_code_of_a_plain_class_is_found_as_before(monkeypatch):
    monkeypatch.setattr(registry, "load", lambda group, name: Plain())
    benchmark = load_benchmark("plain")
    assert Part.of(benchmark, ()) == Part.of(Plain(), ()) and type(benchmark).__doc__ == Plain.__doc__
