"""Reading verdicts in a judge's text. The text is data: the last whole verdict counts, and none is missing."""

import re

_RATING = re.compile(r"\[\[([0-9]+(?:\.[0-9]+)?)\]\]")
LOWEST, HIGHEST = 1, 10


def parse_rating(text: str) -> float | None:
    """The last whole "[[n]]" with n from 1 to 10, or None. Numbers in single brackets or without any are no verdict."""
    ratings = [float(number) for number in _RATING.findall(text) if LOWEST <= float(number) <= HIGHEST]
    return ratings[-1] if ratings else None
