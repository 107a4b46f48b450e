"""The questions of a benchmark as a run asks them: loaded by one function and sampled by one rule.

A benchmark keeps no state between `load` and its other methods: the registry builds a new instance for each.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Questions, Settings
from harness.benchmarks.files import suite_settings
from harness.benchmarks.loading import load_benchmark
from harness.errors import UserError

SAMPLE_SEED = 0  # for --limit: the same for all methods, seeds and runs


def load_questions(target: str, data_dir: Path, settings: Settings) -> Questions[Any]:
    """Return the questions of a benchmark, or a sample if settings.limit is below their number: the first ones of a
    suite in random order, such as the testbed's.

    Args:
        target: its installed name, or FILE.py:CLASS.

    Raises:
        UserError: for a missing or malformed file, for questions that share an id, and for a benchmark that stores what
            it loads in itself, where no other step would find it.
    """
    benchmark = load_benchmark(target)
    before = dict(vars(benchmark))
    loaded = benchmark.load(data_dir, replace(settings, limit=None))
    if kept := [attribute for attribute, value in vars(benchmark).items() if before.get(attribute) is not value]:
        raise UserError(
            f"benchmark {target} stores {', '.join(kept)} in itself in load, but its other methods are called on "
            "another instance: return Questions(items, answering={...}, scoring={...}) from load"
        )
    questions = loaded if isinstance(loaded, Questions) else Questions(loaded)
    if twice := [identifier for identifier, number in Counter(item["id"] for item in questions).items() if number > 1]:
        raise UserError(f"benchmark {target}: several questions have the id {twice[0]!r:.60}")
    if suite_settings(data_dir).get("random_order"):
        return questions.only(range(min(len(questions), settings.limit or len(questions))))
    return questions.only(sample(questions, settings.limit, benchmark.sections))


def sample(items: Sequence[Mapping[str, Any]], limit: int | None, sections: str | None = None) -> list[int]:
    """Return the places of a seeded random sample of `limit` items, in order; all places if there are no more items.

    Args:
        sections: a field of the items; each of its values gets a share of the sample in proportion to its items
            (largest remainders; the earlier section wins a tie).
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
    drawn: list[int] = []
    for places, size in zip(groups.values(), sizes, strict=True):
        drawn += sorted(places, key=lambda place: _lot(items[place]["id"]))[:size]
    return sorted(drawn)


def _lot(identifier: str) -> bytes:
    """Return a random number that depends on the question alone: a file in another order gives the same sample."""
    return hashlib.sha256(f"{SAMPLE_SEED}/{identifier}".encode("utf-8", "surrogatepass")).digest()
