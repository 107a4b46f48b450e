"""The layout of the source, read from its text: floors of packages, no circles, small rooms, one name for one class.

docs/architecture.md says what each package is about.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

# Ground up. A package, or a module that lies directly in harness/, imports only from lower floors.
FLOORS = (
    ("harness", "errors", "progress", "signals", "statistics", "types"),
    ("files", "thoughts", "work"),
    ("budget", "endpoints", "models"),
    ("engines", "experiment"),
    ("judges", "search", "testbed", "training"),
    ("methods",),
    ("benchmarks", "stages"),
    ("sso", "tables"),
    ("baselines", "results"),
    ("perf", "runs"),
    ("exports", "judge_audit", "regression", "report"),
    ("commands",),
    ("api",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
MOST_IN_ROOT = 12  # modules directly in harness/
MOST_LINES = 450  # of a module, except of these, which must not grow
LONG_MODULES = {"harness/endpoints/client.py": 571}


def read_source() -> dict[str, Path]:
    """The file of each module of harness, sso and baselines."""
    files = (path for name in ("harness", "sso", "baselines") for path in sorted((ROOT / name).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = read_source()


def imported(text: str, module: str, modules: set[str], is_package: bool = False) -> Iterator[str]:
    """Modules that a text imports anywhere: at its top, in functions, under TYPE_CHECKING.

    Args:
        text: the source of `module`.
        modules: those that count; `from a import b` imports a.b if that is one of them, else a.
        is_package: whether the text is that of an __init__.py, whose relative imports start one level lower.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + is_package or None] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [name if (name := f"{start}.{alias.name}") in modules else start for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in modules)


def package_of(module: str) -> str:
    """The package of harness, or the module that lies directly in it; sso and baselines are one package each."""
    first, *rest = module.split(".")
    return rest[0] if first == "harness" and rest else first


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Which modules each module imports."""
    names = set(MODULES)
    return {
        module: set(imported(path.read_text(encoding="utf-8"), module, names, path.stem == "__init__")) - {module}
        for module, path in MODULES.items()
    }


def test_imports_are_found_wherever_they_stand():
    text = """
import a.b
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a import c
def function():
    from a.d import name
    from . import e
    from ..b import name
"""
    modules = {"a", "a.b", "a.c", "a.d", "a.f.e", "a.f.g"}
    assert set(imported(text, "a.f.g", modules)) == {"a.b", "a.c", "a.d", "a.f.e"}
    assert set(imported("from .e import name", "a.f", modules, is_package=True)) == {"a.f.e"}


def test_no_modules_import_each_other_in_a_circle(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_every_package_has_a_floor():
    found = {package_of(module) for module in MODULES}
    assert found - FLOOR_OF.keys() == set(), "give these a floor"
    assert FLOOR_OF.keys() - found == set(), "these are gone"


def test_packages_import_only_from_lower_floors(imports):
    """So no packages import each other in a circle either."""
    wrong = [
        f"{module} (floor {FLOOR_OF[package_of(module)]}) imports {other} (floor {FLOOR_OF[package_of(other)]})"
        for module, others in imports.items()
        for other in sorted(others)
        if package_of(module) != package_of(other) and FLOOR_OF[package_of(module)] <= FLOOR_OF[package_of(other)]
    ]
    assert not wrong, "\n".join(wrong)


def test_few_modules_lie_directly_in_the_root():
    assert len(list((ROOT / "harness").glob("*.py"))) <= MOST_IN_ROOT


def test_no_two_classes_have_one_name():
    places = defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].add(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_modules_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert {name: lines for name, lines in lengths.items() if lines > LONG_MODULES.get(name, MOST_LINES)} == {}
    assert LONG_MODULES.keys() <= lengths.keys(), "these are gone"
