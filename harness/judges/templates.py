"""Prompt templates. Inserted values are data: braces inside them are never replaced."""

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{(\w+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each {name} that has a value, all at once; other braces stay as they are."""
    return _PLACE.sub(lambda place: values.get(place.group(1), place.group(0)), template)
