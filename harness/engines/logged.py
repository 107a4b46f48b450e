"""An engine whose completions are kept as they are made: an interruption loses the batch that was on its way."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.base import Advance, Completion, Engine, Sampling, TokenIds


class LoggedEngine:
    """Another engine, with a file of JSON lines in front of it, one for each completion.

    The file grows by whole batches of the engine's own size and order, so that what is generated after an interruption
    shares its batches with what it would have shared them with: results do not depend, in any digit, on whether there
    was one.
    """

    def __init__(self, engine: Engine, file: Path):
        self._engine, self._file = engine, file
        self._found: dict[str, Completion] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """As the engine's."""
        if self._found is None:
            self._found = dict(_read(self._file))
        keys = [self._key(prompt, item, sampling) for prompt, item in zip(prompts, items, strict=True)]
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(prompts), self._engine.batch_size):
            batch = longest_first[start : start + self._engine.batch_size]
            if all(keys[index] in self._found for index in batch):
                if advance:
                    advance(len(batch))
                continue
            made = self._engine.generate(
                [prompts[index] for index in batch], [items[index] for index in batch], sampling, advance
            )
            new = {keys[index]: completion for index, completion in zip(batch, made, strict=True)}
            _append(self._file, new)
            self._found |= new
        return [self._found[key] for key in keys]

    def _key(self, prompt: TokenIds, item: str, sampling: Sampling) -> str:
        depends_on = [self._engine.weights_hash, prompt, item, asdict(sampling)]
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()

    def forget(self) -> None:
        """Removes the file, when what was made of the completions has been written."""
        self._file.unlink(missing_ok=True)
        self._found = None


def _read(file: Path):
    """(key, completion) of every whole line; what was cut off while it was written is removed."""
    if not file.exists():
        return
    with open(file, "rb+") as opened:
        whole = 0
        for line in opened:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if row is None:
                break
            whole += len(line)
            yield row["key"], Completion(tuple(row["token_ids"]), row["text"], row["finished"])
        opened.truncate(whole)


def _append(file: Path, completions: dict[str, Completion]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"key": key, **asdict(completion)} for key, completion in completions.items())
    with open(file, "ab") as opened:
        opened.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        opened.flush()
        os.fsync(opened.fileno())
