"""Methods and benchmarks by name or by file.

A name is found through entry points: another package adds one by declaring it. FILE.py:CLASS is a class in a file.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import UserError, unknown_name
from harness.files import code_files

GROUPS = {
    kind: f"harness.{kind}s" for kind in ("method", "benchmark")
}  # built, so that they do not read as modules (harness.files.sources)
PARTS = {  # what a class of each kind must have (`harness.methods.Method`, `harness.benchmarks.Benchmark`)
    "method": ("name", "summary", "Options", "stages", "supervision"),
    "benchmark": ("name", "title", "Options", "load", "answer", "score"),
}
DEFAULTS = {"benchmark": "; inherit harness.benchmarks.BenchmarkDefaults for all that has a default"}


@cache
def _points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in reversed(entry_points(group=GROUPS[kind]))}  # the first of a name wins


def names(kind: str) -> tuple[str, ...]:
    """Return the known names of a kind ("method" or "benchmark"), sorted. Nothing is imported."""
    return tuple(sorted(_points(kind)))


def load(kind: str, target: str) -> Any:
    """Return an instance of the class with this name, or of the class that FILE.py:CLASS names.

    A name such as "lm-eval:arc_easy" is that of a member: the class "lm-eval" has a classmethod `member`, which returns
    a class for it.

    Raises:
        UserError: for an unknown name (the nearest one is suggested), a file that cannot be run, and a class that is
            not of this kind, naming what it lacks.
    """
    if code_files.is_reference(target):
        return _instance(kind, code_files.load_class(target), target)
    if target not in names(kind):
        family, _, member = target.partition(":")
        if member and family in names(kind) and is_family(kind, family):
            return _points(kind)[family].load().member(member)()
        if not names(kind):
            raise UserError("no methods or benchmarks are registered: install the package (pip install -e .)")
        raise unknown_name(kind, target, names(kind))
    return _points(kind)[target].load()()


def is_family(kind: str, name: str) -> bool:
    """Whether a name stands for a family, whose members are chosen as NAME:MEMBER."""
    return hasattr(_points(kind)[name].load(), "member")


def kind_of(reference: str) -> str:
    """Return the kind of the class that FILE.py:CLASS names: that of which it has more parts."""
    found = code_files.load_class(reference)
    return max(GROUPS, key=lambda kind: sum(hasattr(found, part) for part in PARTS[kind]))


def entry(kind: str, text: str) -> tuple[str, str]:
    """Return name and target of NAME=TARGET or TARGET, where a target is as in `load`.

    The name of a class in a file is its attribute `name`, unless NAME says otherwise.

    Raises:
        UserError: when the class has the name of an installed method or benchmark, which a table could not tell apart.
    """
    name, _, target = text.partition("=")
    if target:
        return name, target
    if not code_files.is_reference(text):
        return text, text
    name = load(kind, text).name
    if name in names(kind):
        raise UserError(
            f"{text} has the name of the installed {kind} {name}: give it another name, or write NAME={text}"
        )
    return name, text


def files_of(targets: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return file and SHA-256 of each class that is in a file, by name: {NAME: {"class": FILE.py:CLASS, "sha256"}}."""
    found = {}
    for name, target in targets.items():
        if code_files.is_reference(target) and (file := code_files.imported(code_files.load_class(target).__module__)):
            found[name] = {"class": target, "sha256": file.sha256}
    return found


def _instance(kind: str, found: type, reference: str) -> Any:
    if absent := [part for part in PARTS[kind] if not hasattr(found, part)]:
        raise UserError(f"{reference} is no {kind}: it lacks {', '.join(absent)}{DEFAULTS.get(kind, '')}")
    if not isinstance(found.name, str):  # type: ignore[attr-defined] # it has one, by the line above
        raise UserError(f"{reference} is no {kind}: its name must be a text")
    try:
        return found()
    except TypeError as error:
        raise UserError(f"{reference} cannot be made without arguments: {error}") from error
