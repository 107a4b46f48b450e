"""Filling prompt templates. What is filled in is data: braces inside it never open another place."""

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{(\w+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with every {name} that has a value replaced at once; all other braces stay as they are."""
    return _PLACE.sub(lambda place: values.get(place.group(1), place.group(0)), template)
