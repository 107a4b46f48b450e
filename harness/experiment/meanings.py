"""What the options of a method or benchmark mean, read from the docstrings of their class and its bases."""

import dataclasses
import re
from itertools import zip_longest


def option_meanings(options: type) -> dict[str, str]:
    """What the docstrings of the class and of its bases say about each option, as "NAME, NAME: text"."""
    fields = {each.name for each in dataclasses.fields(options)}
    heading = re.compile(r"(?:^|(?<=[.\s]))((?:\w+(?: \([^)]*\))?, )*\w+): ")
    found: dict[str, str] = {}
    for base in options.__mro__[:-1]:
        text = " ".join((base.__doc__ or "").split()) if "__doc__" in vars(base) else ""
        marks = [mark for mark in heading.finditer(text) if set(_names(mark)) <= fields]
        for mark, following in zip_longest(marks, marks[1:]):
            meaning = text[mark.end() : following.start() if following else None].strip().rstrip(".")
            for name in _names(mark):
                found.setdefault(name, meaning)
    return found


def _names(heading: re.Match[str]) -> list[str]:
    return [name.partition(" ")[0] for name in heading[1].split(", ")]
