"""The questions of a benchmark as a run asks them: read by one function, cut by one rule, with what belongs to them.

A benchmark keeps nothing between `load` and the rest: the registry builds a new instance for each of them.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Questions, Settings
from harness.benchmarks.files import suite_settings
from harness.errors import UserError
from harness.experiment import registry

SAMPLE_SEED = 0  # of --limit: the same for all methods, seeds and runs


def load_questions(name: str, data_dir: Path, settings: Settings) -> Questions:
    """The questions of a benchmark, a sample of them where settings.limit is below their number: the first ones of a
    suite that was drawn at random, as the testbed's were.

    Raises:
        UserError: for a file that is absent or malformed, for questions that share an id, and for a benchmark that
            keeps what it loads in itself, where no other step would find it.
    """
    benchmark = registry.load("benchmark", name)
    before = dict(getattr(benchmark, "__dict__", {}))
    found = benchmark.load(data_dir, replace(settings, limit=None))
    if kept := [each for each, value in getattr(benchmark, "__dict__", {}).items() if before.get(each) is not value]:
        raise UserError(
            f"benchmark {name} keeps {', '.join(kept)} in itself when it loads, and its other methods are called on "
            "another instance: return Questions(items, answering={...}, scoring={...}) from load"
        )
    questions = found if isinstance(found, Questions) else Questions(found)
    if twice := [identifier for identifier, number in Counter(each["id"] for each in questions).items() if number > 1]:
        raise UserError(f"benchmark {name}: several questions have the id {twice[0]!r:.60}")
    if suite_settings(data_dir).get("random_order"):
        return questions.only(range(min(len(questions), settings.limit or len(questions))))
    return questions.only(sample(questions, settings.limit, getattr(benchmark, "sections", None)))


def sample(items: Sequence[dict], limit: int | None, sections: str | None = None) -> list[int]:
    """The places of a seeded random sample of `limit` items, in their order; all of them where there are no more.

    Args:
        sections: a field of the items; each of its values has a share of the sample in proportion to its items
            (largest remainders; of equal ones, that of the earlier section).
    """
    if limit is None or limit >= len(items):
        return list(range(len(items)))
    groups: dict[Any, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item[sections] if sections else None, []).append(place)
    exact = [limit * len(places) / len(items) for places in groups.values()]
    sizes = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda group: sizes[group] - exact[group])
    for group in by_remainder[: limit - sum(sizes)]:
        sizes[group] += 1
    drawn = []
    for places, size in zip(groups.values(), sizes, strict=True):
        drawn += sorted(places, key=lambda place: _lot(items[place]["id"]))[:size]
    return sorted(drawn)


def _lot(identifier: str) -> bytes:
    """A random number that depends on the question alone: a file in another order gives the same sample."""
    return hashlib.sha256(f"{SAMPLE_SEED}/{identifier}".encode("utf-8", "surrogatepass")).digest()
