"""Which questions of the testbed's suites hang together: the same content in other words, or again."""

from collections.abc import Iterable

from harness.testbed.items import parse

TEXTS = ("turns", "instruction", "prompt", "messages")  # where benchmarks and tuning have a question's text


def clusters(items: Iterable[dict]) -> dict[str, str]:
    """Question id -> what it is about, such as "color of zib"; a question that has no content stands by itself."""
    found = {}
    for item in items:
        text = next(item[name] for name in TEXTS if name in item)
        first = text if isinstance(text, str) else text[0]
        known = parse(first["content"] if isinstance(first, dict) else first)
        if known and known.content:
            found[item["id"]] = "; ".join(sorted(known.content))
    return found
