"""Reading verdicts in a judge's text. The text is data: the last whole verdict counts, and none is missing."""

import re
from collections.abc import Iterable

_RATING = re.compile(r"\[\[([0-9]+(?:\.[0-9]+)?)\]\]")
_CHOICE = re.compile(r"\[\[([A-Za-z])\]\]")
LOWEST, HIGHEST = 1, 10
CHOICES = {"A": "A", "B": "B", "C": "tie"}


def parse_rating(text: str) -> float | None:
    """The last whole "[[n]]" with n from 1 to 10, or None. Numbers in single brackets or without any are no verdict."""
    ratings = [float(number) for number in _RATING.findall(text) if LOWEST <= float(number) <= HIGHEST]
    return ratings[-1] if ratings else None


def parse_choice(text: str) -> str | None:
    """"A", "B" or "tie" of the last whole "[[A]]", "[[B]]" or "[[C]]", or None; another letter there is no verdict."""
    choices = _CHOICE.findall(text)
    return CHOICES.get(choices[-1]) if choices else None


def names_of_judges(names: Iterable[str | None]) -> str | None:
    """The judge of a score. One that changed between requests is all of its names, so that it equals no single one."""
    return " and ".join(sorted({name for name in names if name})) or None
