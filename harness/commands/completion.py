"""Names for shell completion. Nothing heavy is imported, and nothing is run: a file of code is not opened."""

import os
from collections.abc import Callable
from pathlib import Path

from harness.experiment import configuration, registry
from harness.files.folders import RUNS


def methods(incomplete: str) -> list[str]:
    """Complete the last of several methods, separated by commas, or the method in NAME=METHOD."""
    return _last(incomplete, registry.names("method"))


def benchmarks(incomplete: str) -> list[str]:
    return _last(incomplete, registry.names("benchmark"))


def known(incomplete: str) -> list[str]:
    """Complete a method or benchmark."""
    names = (*registry.names("method"), *registry.names("benchmark"))
    return [name for name in names if name.startswith(incomplete)]


def configurations(incomplete: str) -> list[str]:
    """Complete a preset; files are left to the shell."""
    return [name for name in configuration.names() if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Complete a run below results/runs; other folders are left to the shell."""
    try:
        return sorted(each.name for each in os.scandir(Path("results", RUNS)) if each.name.startswith(incomplete))
    except OSError:
        return []


def _last(incomplete: str, names: tuple[str, ...]) -> list[str]:
    place = max(incomplete.rfind(","), incomplete.rfind("=")) + 1
    before, begun = incomplete[:place], incomplete[place:]
    return [before + name for name in names if name.startswith(begun)]


BY_OPTION: dict[str, Callable[[str], list[str]]] = {"methods": methods, "benchmarks": benchmarks}
