"""Methods and benchmarks by name, found through entry points: another package adds one by declaring it."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import UserError, unknown_name

GROUPS = {kind: f"harness.{kind}s" for kind in ("method", "benchmark")}  # no names of modules (harness.files.sources)


@cache
def _points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in reversed(entry_points(group=GROUPS[kind]))}  # the first of a name wins


def names(kind: str) -> tuple[str, ...]:
    """The known names of a kind ("method" or "benchmark"), sorted; nothing is imported."""
    return tuple(sorted(_points(kind)))


def load(kind: str, name: str) -> Any:
    """An instance of the named class.

    Raises:
        UserError: when the name is not known; the nearest one is suggested.
    """
    if name not in names(kind):
        if not names(kind):
            raise UserError("no methods or benchmarks are registered: install the package (pip install -e .)")
        raise unknown_name(kind, name, names(kind))
    return _points(kind)[name].load()()
