"""Which questions of the testbed's suites are dependent: the same content in other words, or repeated."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness.testbed.items import parse

TEXTS = ("turns", "instruction", "prompt", "messages")  # fields with a question's text


def clusters(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return question id -> its content, such as "color of zib"; a question without content is independent."""
    found = {}
    for item in items:
        text = next(item[name] for name in TEXTS if name in item)
        first = text if isinstance(text, str) else text[0]
        known = parse(first["content"] if isinstance(first, dict) else first)
        if known and known.content:
            found[item["id"]] = "; ".join(sorted(known.content))
    return found
