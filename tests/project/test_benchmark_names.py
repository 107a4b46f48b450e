"""What others need to know of a benchmark is on its class: no other module names one, so that one file adds it."""

import ast
from importlib.metadata import entry_points

import pytest
from paths import ROOT

from harness.benchmarks.loading import load_benchmark
from harness.experiment import registry
from harness.files import sources
from harness.files.extras import EXTRAS

NAMING = {  # modules that name benchmarks, and why
    "harness/experiment/options.py": "what a run is scored on unless it is told",
    "harness/commands/score.py": "a command for each format of published answers",
    "harness/judge_audit/audit.py": "judges asked as published label sets were",
    "harness/judge_audit/labels.py": "label sets that were published for a benchmark",
    "harness/testbed/suites.py": "the embedded suites, each in the format of a benchmark",
}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # others differ from their modules by hyphens


def test_no_other_module_names_a_benchmark():
    names = {name for name in registry.names("benchmark") if not registry.is_family("benchmark", name)}
    modules = {point.module for point in entry_points(group=registry.GROUPS["benchmark"])}
    found = {}
    for path in sorted(file for top in sources.OURS for file in (ROOT / top).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith("harness/benchmarks/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
            if is_name or (isinstance(node, ast.ImportFrom) and node.module in modules):
                found.setdefault(name, []).append(node.lineno)
    assert {name: lines for name, lines in found.items() if name not in NAMING} == {}
    assert NAMING.keys() <= found.keys(), "these name none any more"


@pytest.mark.parametrize("name", registry.names("benchmark"))
def test_a_benchmark_states_the_packages_that_it_imports(name):
    benchmark = load_benchmark(name)
    roots = sources.Roots((type(benchmark).__module__,))
    imported = {
        package for package, extra in EXTRAS.items() if extra == "benchmarks" and sources.imports(package, roots)
    }
    assert {DISTRIBUTIONS.get(each, each.replace("_", "-")) for each in imported} <= set(benchmark.packages)
