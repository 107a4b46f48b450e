"""One harness that trains SSO and its baselines under identical budgets, scores them, and compares them."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Experiment", "Run", "UserError", "load_run", "run"]

_HOMES = {  # relative names: a dotted name would count as an import of every step's code (`harness.files.sources`)
    "Experiment": ".experiment.options",
    "Run": ".api",
    "UserError": ".errors",
    "load_run": ".api",
    "run": ".api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
