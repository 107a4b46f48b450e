"""Self-Steering Optimization (Xiang et al., arXiv 2410.17131): objectives, principles, trainers and the two methods."""

from importlib import import_module
from typing import Any

_HOMES = {
    "GeneratorObjective": "sso.objective",
    "Query": "sso.objective",
    "SSOConfig": "sso.config",
    "SSOError": "sso.errors",
    "SSOTrainer": "sso.trainer",
    "SSOVersion1Config": "sso.config",
    "SSOVersion1Trainer": "sso.trainer",
    "WeightedObjective": "sso.objective",
    "pair_weight": "sso.objective",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
