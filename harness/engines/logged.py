"""An engine whose results are stored as they are made: an interruption loses only the call in progress."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.prefixes import reading_order
from harness.engines.wrapper import E, EngineWrapper, T, TrainableWrapper
from harness.files.disk import writing
from harness.progress import Advance
from harness.types import TokenIds


class LoggedEngine(EngineWrapper[E]):
    """Another engine behind a file of JSON lines, one line per completion or log-probability.

    The file grows by as many prompts as the engine takes in a call, in its own order (for log-probabilities, by whole
    calls). What is made after an interruption is therefore batched as it would have been without one, and results do
    not depend on it in any digit. (After a batch that did not fit in memory, each line records how much did.) Only the
    position of each line is held in memory.
    """

    def __init__(self, engine: E, file: Path) -> None:
        super().__init__(engine)
        self._file = file
        self._places: dict[str, int] | None = None  # key -> start of its line

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return what the engine generates, from the file if it is there."""
        keys = [self._key(prompt, item, asdict(sampling)) for prompt, item in zip(prompts, items, strict=True)]
        completions: dict[int, Completion] = {}
        order = reading_order(prompts)
        for start in range(0, len(prompts), self._engine.unit):
            batch = order[start : start + self._engine.unit]
            asked = [prompts[index] for index in batch], [items[index] for index in batch]
            rows = self._rows([keys[index] for index in batch], advance, self._engine.generate, *asked, sampling)
            for index, row in zip(batch, rows, strict=True):
                completions[index] = Completion(tuple(row["token_ids"]), row["text"], row["finished"], row["computed"])
        return [completions[place] for place in range(len(prompts))]

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Return what the engine computes, from the file if it is there."""
        call = self._key(prompts, completions)  # in another call, the same sequence would be batched with others
        keys = [f"{call}-{place}" for place in range(len(prompts))]
        rows = self._rows(keys, advance, self._engine.logprobs, prompts, completions)
        return [LogProb(row["total"], row["tokens"]) for row in rows]

    def _rows(
        self, keys: Sequence[str], advance: Advance | None, ask: Callable[..., Sequence[Any]], *asked: Any
    ) -> list[dict[str, Any]]:
        """Return what the engine answers: from the file if all of it is there, else computed and added to it."""
        limits = {"generates": self._engine.generates, "scores": self._engine.scores}
        if self._places is None:
            self._places = {}
            for key, place, at_once in _places(self._file):
                self._places[key] = place
                for name, size in at_once.items():
                    limits[name].size = min(limits[name].size, size)
        if all(key in self._places for key in keys):
            if advance:
                advance(len(keys))
            return _read(self._file, [self._places[key] for key in keys])
        rows = [vars(result) for result in ask(*asked, advance)]
        at_once = {name: limit.size for name, limit in limits.items() if limit.size < limit.first}
        self._places |= _append(self._file, dict(zip(keys, rows, strict=True)), at_once)
        return rows

    def _key(self, *depends_on: Any) -> str:
        return hashlib.sha256(json.dumps([self._engine.weights_hash, *depends_on]).encode()).hexdigest()


class LoggedTrainableEngine(LoggedEngine[T], TrainableWrapper[T]):
    """A logged engine whose model is in this process."""


def _places(file: Path) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Yield key, start and batch limits of each whole line; a line that was cut off while written is removed."""
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


def _read(file: Path, places: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    with open(file, "rb") as opened:
        for place in places:
            opened.seek(place)
            rows.append(json.loads(opened.readline()))
    return rows


def _append(file: Path, rows: dict[str, dict[str, Any]], at_once: dict[str, int]) -> dict[str, int]:
    """Write the rows, synced to disk when this returns, and return where each line starts."""
    places = {}
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab") as opened:
            for key, row in rows.items():
                places[key] = opened.tell()
                opened.write(json.dumps({"key": key, "at_once": at_once, **row}).encode() + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
    return places
