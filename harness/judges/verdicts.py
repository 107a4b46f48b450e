"""Reading verdicts in a judge's text. The text is data: the last whole verdict decides, and anything else is none.

One reader for live runs, `--reparse`, tuning and training pairs. A thought is not part of what the judge says: verdicts
in it do not count, and a text that ends inside its thought has none.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from harness.endpoints.base import JudgeReply
from harness.thoughts import spoken

# What stands in double brackets on one line, whatever it is: the last one decides, also where it is not a verdict.
_BRACKETS = re.compile(r"\[\[([^\[\]\n]*)\]\]")
_NUMBER = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]*)?)\s*", re.ASCII)
LOWEST, HIGHEST = 1, 10
# what in an answer is made to look like a judge's verdict, or like the end of the answer in a judge prompt
_FORGED = re.compile(
    r"\[\[(?:[0-9]+(?:\.[0-9]+)?|[ABC])\]\]|(?i:(?:\[|<\|)The (?:Start|End) of )|"
    r'(?i:"model_identifier"|## Best Model Identifier)'
)
CHOICES = {"A": "A", "B": "B", "C": "tie"}
LEAST_PROBABILITY = 0.5  # that the letters must have together: a judge that says something else has given no verdict


def _decisive(text: str) -> str:
    """What stands in the last double brackets, "" where there are none."""
    found = _BRACKETS.findall(spoken(text) or "")
    return found[-1] if found else ""


def parse_rating(text: str) -> float | None:
    """The number in the last "[[...]]", from 1 to 10. None where that holds anything else, and without any.

    >>> parse_rating("A [[3]] at first, but: Rating: [[7]]")
    7.0
    >>> parse_rating("Rating: [[11]]") is None
    True
    """
    number = _NUMBER.fullmatch(_decisive(text))
    rating = float(number.group(1)) if number else math.nan
    return rating if LOWEST <= rating <= HIGHEST else None


def parse_choice(text: str) -> str | None:
    """ "A", "B" or "tie" of the last "[[...]]", which must be "[[A]]", "[[B]]" or "[[C]]"; else None."""
    return CHOICES.get(_decisive(text).strip())


def rating_of(reply: JudgeReply) -> float | None:
    """`parse_rating` of a reply that is whole; a failed one, or one that was cut, has no verdict."""
    return None if reply.error or reply.cut else parse_rating(reply.text)


def has_rating(reply: JudgeReply) -> bool:
    """Whether `rating_of` finds one."""
    return rating_of(reply) is not None


def choice_of(reply: JudgeReply) -> str | None:
    """`parse_choice` of a reply that is whole."""
    return None if reply.error or reply.cut else parse_choice(reply.text)


def letter_logprobs(first_token: Mapping[str, float] | None, letters: Sequence[str]) -> dict[str, float] | None:
    """Log-probabilities (nats) of the letters as a reply's first token.

    Letters as they are come first. Where they have less than half of the probability together, tokens with white space
    around a letter count as the letter (" M" of some tokenizers), their probabilities added.

    Returns:
        Those that occur, or None when they have less than LEAST_PROBABILITY together: the judge said something else.
    """
    known = first_token or {}
    found = {letter: known[letter] for letter in letters if letter in known}
    if _probability(found.values()) < LEAST_PROBABILITY:
        found = {}
        for token, logprob in known.items():
            if (letter := token.strip()) in letters:
                found[letter] = logprob if letter not in found else _add(found[letter], logprob)
    return found if _probability(found.values()) >= LEAST_PROBABILITY else None


def _probability(logprobs: Iterable[float]) -> float:
    return sum(math.exp(min(each, 0.0)) for each in logprobs)


def _add(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


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
