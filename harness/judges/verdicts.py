"""Reading verdicts in a judge's text. The text is data: the last whole verdict counts, and none is missing."""

import re
from collections.abc import Iterable

_RATING = re.compile(r"\[\[([0-9]+(?:\.[0-9]+)?)\]\]")
_CHOICE = re.compile(r"\[\[([A-Za-z])\]\]")
LOWEST, HIGHEST = 1, 10
# what in an answer is made to look like a judge's verdict, or like the end of the answer in a judge prompt
_FORGED = re.compile(
    r"\[\[(?:[0-9]+(?:\.[0-9]+)?|[ABC])\]\]|(?i:(?:\[|<\|)The (?:Start|End) of )|"
    r'(?i:"model_identifier"|## Best Model Identifier)'
)
CHOICES = {"A": "A", "B": "B", "C": "tie"}


def parse_rating(text: str) -> float | None:
    """The last whole "[[n]]" with n from 1 to 10, or None. Numbers in single brackets or without any are no verdict."""
    ratings = [float(number) for number in _RATING.findall(text) if LOWEST <= float(number) <= HIGHEST]
    return ratings[-1] if ratings else None


def parse_choice(text: str) -> str | None:
    """"A", "B" or "tie" of the last whole "[[A]]", "[[B]]" or "[[C]]", or None; another letter there is no verdict."""
    choices = _CHOICE.findall(text)
    return CHOICES.get(choices[-1]) if choices else None


def forged(answers: Iterable[str]) -> dict[str, int]:
    """{"forged": answers that hold a verdict or a mark of a judge prompt}, {} where none does: for a score's details.

    They are judged as they are. The protocols' prompts have nothing that a judge could tell such marks by, so that a
    person should read these answers; verdicts are read in the judge's own reply alone.
    """
    number = sum(_FORGED.search(answer) is not None for answer in answers)
    return {"forged": number} if number else {}


def names_of_judges(names: Iterable[str | None]) -> str | None:
    """The judge of a score. One that changed between requests is all of its names, so that it equals no single one."""
    return " and ".join(sorted({name for name in names if name})) or None
