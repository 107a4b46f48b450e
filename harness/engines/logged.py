"""An engine whose results are kept as they are made: an interruption loses the batch that was on its way."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.base import Completion, Engine, LogProb, Sampling
from harness.files.disk import writing
from harness.progress import Advance
from harness.types import TokenIds


class LoggedEngine:
    """Another engine, with a file of JSON lines in front of it, one for each completion or log-probability.

    The file grows by whole batches of the engine's own size and order (of log-probabilities: by whole calls), so that
    what is made after an interruption shares its batches with what it would have shared them with: results do not
    depend, in any digit, on whether there was one. (After a batch that memory did not hold, each line says how much
    fitted at once.) In memory is only where each line stands in the file.
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
        keys = [self._key(prompt, item, asdict(sampling)) for prompt, item in zip(prompts, items, strict=True)]
        completions: list[Completion | None] = [None] * len(prompts)
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(prompts), self._engine.batch_size):
            batch = longest_first[start : start + self._engine.batch_size]
            asked = [prompts[index] for index in batch], [items[index] for index in batch]
            rows = self._rows([keys[index] for index in batch], advance, self._engine.generate, *asked, sampling)
            for index, row in zip(batch, rows, strict=True):
                completions[index] = Completion(tuple(row["token_ids"]), row["text"], row["finished"], row["computed"])
        return completions

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """As the engine's."""
        call = self._key(prompts, completions)  # elsewhere, the same sequence shares its batch with others
        keys = [f"{call}-{place}" for place in range(len(prompts))]
        rows = self._rows(keys, advance, self._engine.logprobs, prompts, completions)
        return [LogProb(row["total"], row["tokens"]) for row in rows]

    def _rows(self, keys: Sequence[str], advance: Advance | None, ask: Callable[..., list], *asked: Any) -> list[dict]:
        """What the engine answers, from the file if all of it is there, and else put there."""
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
        rows = [vars(each) for each in ask(*asked, advance)]
        at_once = {name: limit.size for name, limit in limits.items() if limit.size < limit.first}
        self._places |= _append(self._file, dict(zip(keys, rows, strict=True)), at_once)
        return rows

    def _key(self, *depends_on: Any) -> str:
        return hashlib.sha256(json.dumps([self._engine.weights_hash, *depends_on]).encode()).hexdigest()


def _places(file: Path) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Key, start and what fitted at once of every whole line; what was cut off while it was written is removed."""
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


def _read(file: Path, places: Sequence[int]) -> list[dict]:
    rows = []
    with open(file, "rb") as opened:
        for place in places:
            opened.seek(place)
            rows.append(json.loads(opened.readline()))
    return rows


def _append(file: Path, rows: dict[str, dict], at_once: dict[str, int]) -> dict[str, int]:
    """Writes the rows, on the disk when this returns, and tells where their lines start."""
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
