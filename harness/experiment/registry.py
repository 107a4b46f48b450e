"""Methods and benchmarks by name, found through entry points: another package adds one by declaring it."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import UserError, unknown_name

GROUPS = {
    kind: f"harness.{kind}s" for kind in ("method", "benchmark")
}  # built, so that they do not read as modules (harness.files.sources)


@cache
def _points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in reversed(entry_points(group=GROUPS[kind]))}  # the first of a name wins


def names(kind: str) -> tuple[str, ...]:
    """Return the known names of a kind ("method" or "benchmark"), sorted. Nothing is imported."""
    return tuple(sorted(_points(kind)))


def load(kind: str, name: str) -> Any:
    """Return an instance of the class with this name.

    A name such as "lm-eval:arc_easy" is that of a member: the class "lm-eval" has a classmethod `member`, which returns
    a class for it.

    Raises:
        UserError: for an unknown name; the nearest one is suggested.
    """
    if name not in names(kind):
        family, _, member = name.partition(":")
        if member and family in names(kind) and is_family(kind, family):
            return _points(kind)[family].load().member(member)()
        if not names(kind):
            raise UserError("no methods or benchmarks are registered: install the package (pip install -e .)")
        raise unknown_name(kind, name, names(kind))
    return _points(kind)[name].load()()


def is_family(kind: str, name: str) -> bool:
    """Whether a name stands for a family, whose members are chosen as NAME:MEMBER."""
    return hasattr(_points(kind)[name].load(), "member")
