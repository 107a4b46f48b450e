"""Several files of training data with weights: which part of a mixture each draw comes from."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import UserError
from harness.files.store import digest
from harness.types import Prompt


@dataclass(frozen=True)
class TrainingFile:
    """A file or data set of prompts or pairs, and its share of what is drawn (None: it is the only one)."""

    name: str
    share: float | None = None


def parse_sources(text: str) -> list[TrainingFile]:
    """The sources in the value of --prompts or --preferences, with shares that sum to 1.

    >>> parse_sources("a.jsonl=3,b.jsonl=1")
    [TrainingFile(name='a.jsonl', share=0.75), TrainingFile(name='b.jsonl', share=0.25)]

    Raises:
        UserError: when a source has no weight, or one that is not above 0, or is named twice.
    """
    if os.path.exists(text) or ("," not in text and "=" not in text):
        return [TrainingFile(text)]
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().rpartition("=")
        if not name or not _is_weight(weight):
            raise UserError(
                f"{part.strip()!r} in {text!r} is no file with a weight: write FILE=WEIGHT,FILE=WEIGHT, such as "
                "a.jsonl=0.7,b.jsonl=0.3"
            )
        if name in weights:
            raise UserError(f"{name} is given twice in {text!r}: give it one weight")
        weights[name] = float(weight)
    return [TrainingFile(name, weight / sum(weights.values())) for name, weight in weights.items()]


def _is_weight(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def source_names(text: str) -> list[str]:
    return [source.name for source in parse_sources(text)]


def mix(read: Mapping[TrainingFile, Sequence[Prompt]]) -> list[Prompt]:
    """The prompts of several sources as one mixture. A prompt that an earlier source has too is left out, and counted
    on standard error.

    Raises:
        UserError: when nothing is left of a source.
    """
    mixed: list[Prompt] = []
    seen: set[str] = set()
    ids: set[str] = set()
    for source, prompts in read.items():
        added = 0
        for prompt in prompts:
            content = digest(prompt.content | {"id": None})
            if content in seen:
                continue
            seen.add(content)
            mixed.append(replace(prompt, id=_unused(prompt.id, ids), part=(source.name, source.share or 1.0)))
            ids.add(mixed[-1].id)
            added += 1
        if not added:
            raise UserError(f"all rows of {source.name} are in the sources before it: leave it out")
        if added < len(prompts):
            print(f"{source.name}: {len(prompts) - added} rows left out: in an earlier source", file=sys.stderr)
    return mixed


def _unused(name: str, names: Collection[str]) -> str:
    """The name, with a "+" for each that it was used before (files of one name in several folders)."""
    while name in names:
        name += "+"
    return name


@dataclass(frozen=True)
class MixturePart:
    """The prompts of one source of a mixture. share: of the draws; the shares of all parts sum to 1."""

    name: str
    share: float
    prompts: tuple[Prompt, ...]


def parts_of(prompts: Sequence[Prompt]) -> list[MixturePart]:
    """The parts of a mixture; prompts of a single source are one part without a name."""
    found: dict[str, list[Prompt]] = {}
    shares: dict[str, float] = {}
    for prompt in prompts:
        name, share = prompt.part or ("", 1.0)
        found.setdefault(name, []).append(prompt)
        shares[name] = share
    total = sum(shares.values())  # below 1 where all prompts of a part were held out or too long
    return [MixturePart(name, shares[name] / total, tuple(found[name])) for name in found]


def is_mixture(prompts: Sequence[Prompt]) -> bool:
    return bool(prompts) and prompts[0].part is not None


def draws(parts: Sequence[MixturePart], number: int) -> list[int]:
    """How many of the first `number` draws come from each part: at each draw, the part that is furthest behind its
    share is next, so that every stretch of draws has the shares up to one draw per part."""
    counts = [0] * len(parts)
    for place in range(number):
        counts[next_part(parts, counts, place)] += 1
    return counts


def next_part(parts: Sequence[MixturePart], counts: Sequence[int], place: int) -> int:
    """The part of the draw after `place` draws, of which `counts` came from each part."""
    return max(range(len(parts)), key=lambda index: parts[index].share * (place + 1) - counts[index])


def passes(prompts: Sequence[Prompt], number: float) -> float:
    """How often the prompts are passed over in this many draws; in a mixture, those of the part that is drawn most
    often for its size."""
    return max(number * part.share / len(part.prompts) for part in parts_of(prompts))
