"""An engine whose completions are kept as they are made: an interruption loses the batch that was on its way."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.base import Advance, Completion, Engine, Sampling, TokenIds
from harness.faults import writing


class LoggedEngine:
    """Another engine, with a file of JSON lines in front of it, one for each completion.

    The file grows by whole batches of the engine's own size and order, so that what is generated after an interruption
    shares its batches with what it would have shared them with: results do not depend, in any digit, on whether there
    was one. (After a batch that memory did not hold, each completion says how many prompts fitted at once.) In memory
    is only where each completion stands in the file.
    """

    def __init__(self, engine: Engine, file: Path):
        self._engine, self._file = engine, file
        self._places: dict[str, int] | None = None  # key -> start of its line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """As the engine's."""
        if self._places is None:
            self._places = {}
            for key, place, at_once in _places(self._file):
                self._places[key] = place
                if at_once:
                    self._engine.generates.size = min(self._engine.generates.size, at_once)
        keys = [self._key(prompt, item, sampling) for prompt, item in zip(prompts, items, strict=True)]
        completions: list[Completion | None] = [None] * len(prompts)
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(prompts), self._engine.batch_size):
            batch = longest_first[start : start + self._engine.batch_size]
            if all(keys[index] in self._places for index in batch):
                found = _read(self._file, [self._places[keys[index]] for index in batch])
                if advance:
                    advance(len(batch))
            else:
                found = self._engine.generate(
                    [prompts[index] for index in batch], [items[index] for index in batch], sampling, advance
                )
                made = dict(zip((keys[index] for index in batch), found, strict=True))
                at_once = self._engine.generates.size
                self._places |= _append(self._file, made, at_once if at_once < self._engine.batch_size else None)
            for index, completion in zip(batch, found, strict=True):
                completions[index] = completion
        return completions

    def _key(self, prompt: TokenIds, item: str, sampling: Sampling) -> str:
        depends_on = [self._engine.weights_hash, prompt, item, asdict(sampling)]
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def _places(file: Path) -> Iterator[tuple[str, int, int | None]]:
    """Key, start and prompts at once of every whole line; what was cut off while it was written is removed."""
    if not file.exists():
        return
    with writing(file), open(file, "rb+") as opened:
        whole = 0
        for line in opened:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if not isinstance(row, dict) or "key" not in row:
                break
            yield row["key"], whole, row["at_once"]
            whole += len(line)
        if whole < file.stat().st_size:
            opened.truncate(whole)


def _read(file: Path, places: Sequence[int]) -> list[Completion]:
    completions = []
    with open(file, "rb") as opened:
        for place in places:
            opened.seek(place)
            row = json.loads(opened.readline())
            completions.append(Completion(tuple(row["token_ids"]), row["text"], row["finished"]))
    return completions


def _append(file: Path, completions: dict[str, Completion], at_once: int | None) -> dict[str, int]:
    """Writes the completions, on the disk when this returns, and tells where their lines start."""
    places = {}
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab") as opened:
            for key, completion in completions.items():
                places[key] = opened.tell()
                opened.write(json.dumps({"key": key, "at_once": at_once, **vars(completion)}).encode() + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
    return places
