"""Reading verdicts in a judge's text. The text is data: the last whole verdict counts, and none is missing."""

import re
from collections.abc import Iterable

_RATING = re.compile(r"\[\[([0-9]+(?:\.[0-9]+)?)\]\]")
LOWEST, HIGHEST = 1, 10


def parse_rating(text: str) -> float | None:
    """The last whole "[[n]]" with n from 1 to 10, or None. Numbers in single brackets or without any are no verdict."""
    ratings = [float(number) for number in _RATING.findall(text) if LOWEST <= float(number) <= HIGHEST]
    return ratings[-1] if ratings else None


def names_of_judges(names: Iterable[str | None]) -> str | None:
    """The judge of a score. One that changed between requests is all of its names, so that it equals no single one."""
    return " and ".join(sorted({name for name in names if name})) or None
