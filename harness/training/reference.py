"""Log-probabilities under the reference: computed once per model and set of examples, and kept."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.budget import Ledger
from harness.engines.base import Engine, TrainableEngine
from harness.errors import UserError
from harness.files import store
from harness.progress import Advance
from harness.training.dataset import ExampleData, sequences_of
from harness.types import TokenIds
from harness.work import wasted

SHA256 = "sha256"  # key of the rows' digest, in the first line of a file
BLOCK = 128  # examples per call of the engine; an interruption loses at most this many


@dataclass(frozen=True)
class ReferenceLogProbs:
    """Log-probabilities of the completions of n examples of k sequences.

    totals: (n, k) sums, in nats.
    tokens: (n, k) numbers of completion tokens.
    """

    totals: np.ndarray
    tokens: np.ndarray

    @property
    def means(self) -> np.ndarray:
        return self.totals / self.tokens


def reference_logprobs(
    engine: TrainableEngine,
    data: ExampleData,
    ledger: Ledger,
    cache: Path | None = None,
    advance: Advance | None = None,
) -> ReferenceLogProbs:
    """Compute the log-probabilities of all sequences under the reference, charged to the role "reference".

    Results from the cache are charged as if they were computed, so budgets do not depend on what ran before.

    Args:
        engine: the reference.
        cache: folder with one file per reference and set of examples (in any order), which epochs, seeds, betas and
            methods that train on the same examples share.

    Raises:
        UserError: when a file of the cache was changed.
    """
    start = time.perf_counter()
    file = cache / f"{_key(engine, data)}.jsonl" if cache else None
    if file and file.exists():
        rows = read_rows(file)
        if advance:
            advance(len(data) * data.sequences)
    else:
        rows = list(_compute(engine, data, advance))
        if file:
            store.write_text(file, _document(rows))
    by_digest = {row["example"]: row for row in rows}
    totals, tokens = (np.array([by_digest[digest][name] for digest in data.digests]) for name in ("totals", "tokens"))
    flops = ledger.cost(engine).forward(data.work)
    computed = sum(engine.positions(*asked) for _, asked in _blocks(data)) if engine.reading.fills else None
    ledger.charge(
        "reference",
        flops,
        **wasted(flops, data.work, computed),
        calls=len(data) * data.sequences,
        prompt_tokens=int(data.work.read),
        seconds=time.perf_counter() - start,
    )
    return ReferenceLogProbs(totals, tokens)


def _document(rows: list[dict[str, Any]]) -> str:
    """The text of a cache file: a line with the digest of all rows, then a line per example."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    return f"{json.dumps({SHA256: hashlib.sha256(text.encode()).hexdigest()})}\n{text}"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a cache file.

    Raises:
        UserError: when the file was changed since it was written.
    """
    head, _, text = file.read_bytes().partition(b"\n")
    try:
        if json.loads(head)[SHA256] == hashlib.sha256(text).hexdigest():
            return [json.loads(line) for line in text.splitlines()]
    except (ValueError, TypeError, LookupError):
        pass
    raise UserError(
        f"{file} was changed since it was written (its digest differs): restore it, or delete it to recompute the "
        "log-probabilities of the reference"
    )


def _key(engine: Engine, data: ExampleData) -> str:
    names = "\n".join((engine.weights_hash, *sorted(data.digests)))
    return hashlib.sha256(names.encode()).hexdigest()[:32]


def _compute(engine: Engine, data: ExampleData, advance: Advance | None) -> Iterator[dict[str, Any]]:
    """Yield one row per example. The digests decide the order, and so which examples share a batch: results do not
    depend, in any digit, on the order in which examples were made."""
    for block, asked in _blocks(data):
        scores = engine.logprobs(*asked, advance)
        for place, index in enumerate(block):
            row = scores[place * data.sequences : (place + 1) * data.sequences]
            yield {
                "example": data.digests[index],
                "totals": [score.total for score in row],
                "tokens": [score.tokens for score in row],
            }


def _blocks(data: ExampleData) -> Iterator[tuple[list[int], tuple[list[TokenIds], list[TokenIds]]]]:
    """Yield the indices of the examples that are read in one call, and all their prompts and completions."""
    order = sorted(range(len(data)), key=data.digests.__getitem__)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        pairs = [pair for row in data.rows.select(block) for pair in sequences_of(row)]
        yield block, ([prompt for prompt, _ in pairs], [completion for _, completion in pairs])
