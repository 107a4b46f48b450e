"""Search spaces of tuning, and the points that it tries.

A method declares a distribution for each option worth tuning. All methods use the same points of a unit cube, a
quasi-random (Halton) sequence: few points cover it evenly, and more points leave the first ones unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from harness.errors import UserError

SEED = 20241017  # of the sequence
DIGITS = 3  # significant ones of a value, so that it is easy to set by hand


@dataclass(frozen=True)
class Uniform:
    """A number between two limits."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the quantile of a share within [0, 1]."""
        return _short(self.low + share * (self.high - self.low))


@dataclass(frozen=True)
class LogUniform:
    """A number between two limits above 0, whose logarithm is uniform."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the quantile of a share within [0, 1]."""
        return _short(self.low * (self.high / self.low) ** share)

    def times(self, factor: float) -> "LogUniform":
        """Return the distribution of values larger by a factor."""
        return LogUniform(_short(factor * self.low), _short(factor * self.high))


Distribution = Uniform | LogUniform
Space = Mapping[
    str, Distribution
]  # by the name of the option; the order decides the points: add new options at the end
LEARNING_RATE = LogUniform(3e-5, 5e-4)  # of the embedded model: at 1e-3, SSO and IPO collapse
BETA = LogUniform(0.05, 1.0)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def within(distribution: Distribution, limits: Any, what: str) -> Distribution:
    """Return the distribution with other limits: two numbers, as a list or as "LOW,HIGH".

    Raises:
        UserError: when they are not two increasing numbers, naming `what`.
    """
    try:
        low, high = map(float, limits.split(",") if isinstance(limits, str) else limits)
    except (TypeError, ValueError, OverflowError):
        low = high = float("nan")
    above = 0 if isinstance(distribution, LogUniform) else float("-inf")
    if not (above < low < high and isfinite(high)):
        positive = " above 0" if above == 0 else ""
        raise UserError(f"limits of {what} must be LOW,HIGH{positive}, such as 1e-7,1e-5, not {limits!r:.80}")
    return replace(distribution, low=low, high=high)


def trial_points(space: Space, number: int) -> list[dict[str, float]]:
    """Return the changes of each trial: none in the first, then values for all options of the space."""
    from scipy.stats.qmc import Halton

    points = Halton(len(space), rng=SEED).random(number - 1).tolist()
    return [{}] + [{name: space[name].at(share) for name, share in zip(space, point, strict=True)} for point in points]
