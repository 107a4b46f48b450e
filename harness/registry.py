"""Methods and benchmarks by name, found through entry points: another package adds one by declaring it."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from harness.errors import UserError, unknown_name

GROUPS = {"method": "harness.methods", "benchmark": "harness.benchmarks"}


@cache
def names(kind: str) -> tuple[str, ...]:
    """The known names of a kind ("method" or "benchmark"), sorted; nothing is imported."""
    return tuple(sorted({point.name for point in entry_points(group=GROUPS[kind])}))


def load(kind: str, name: str) -> Any:
    """An instance of the named class.

    Raises:
        UserError: when the name is not known; the nearest one is suggested.
    """
    if name not in names(kind):
        if not names(kind):
            raise UserError("no methods or benchmarks are registered: install the package (pip install -e .)")
        raise unknown_name(kind, name, names(kind))
    (point, *_) = entry_points(group=GROUPS[kind], name=name)
    return point.load()()
