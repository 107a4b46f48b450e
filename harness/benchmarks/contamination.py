"""Which questions of a benchmark are in a method's training texts: by equal text, or by a shared passage of 13 words.

The passages are those of Brown et al. 2020 (arXiv 2005.14165, appendix C): 13 words, lower case, without punctuation,
and none that many texts share.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

PASSAGE = 13  # words
LEAST = 4  # words; shorter texts, such as "Yes.", are equal by chance
MOST_SHARED = 10  # questions that may share a passage; one of more of them is a form, not a question
SAME_TEXT, SAME_PASSAGE = "same text", f"{PASSAGE} words in a row"
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each character is a word
_WORD = re.compile(f"[{_IDEOGRAPHS}]|[^\\W_{_IDEOGRAPHS}]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case.

    >>> words("What's 2+2, in 日本?")
    ['what', 's', '2', '2', 'in', '日', '本']
    """
    return _WORD.findall(text.lower())


def passages(of: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(of) - PASSAGE + 1):
        yield tuple(of[start : start + PASSAGE])


def contaminated(questions: Mapping[str, Sequence[str]], training: Iterable[str]) -> dict[str, str]:
    """The questions that training texts give away.

    Args:
        questions: question id -> its texts.
        training: every text that was trained on, prompts and replies alike.

    Returns:
        question id -> SAME_TEXT, where a training text has the same words, or SAME_PASSAGE.
    """
    whole: dict[tuple[str, ...], set[str]] = {}
    parts: dict[tuple[str, ...], set[str]] = {}
    for name, texts in questions.items():
        for text in texts:
            read = words(text)
            if len(read) >= LEAST:
                whole.setdefault(tuple(read), set()).add(name)
            for passage in passages(read):
                parts.setdefault(passage, set()).add(name)
    parts = {passage: names for passage, names in parts.items() if len(names) <= MOST_SHARED}
    found: dict[str, str] = {}
    for text in training:
        read = words(text)
        for name in whole.get(tuple(read), ()):
            found[name] = SAME_TEXT
        for passage in passages(read) if parts else ():
            for name in parts.get(passage, ()):
                found.setdefault(name, SAME_PASSAGE)
    return dict(sorted(found.items()))


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a question's field or a row of training data: of strings, lists of them, and messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from texts_of(part)


def by_kind(found: Mapping[str, str]) -> dict[str, int]:
    """How many questions were found in each way."""
    return dict(Counter(found.values()))
