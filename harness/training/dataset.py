"""Examples as a memory-mapped dataset, the order they are trained in, and their batches."""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UserError
from harness.files.disk import whole
from harness.training.examples import Example
from harness.types import TokenIds
from harness.work import Work, of_sequences, total

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from harness.engines.packing import PackedBatch

WINDOW = 8  # updates whose examples are sorted by length together; more: less padding in attention, less mixing
FILLER = -1  # index of a row without weight, which gives all processes that share an update the same number of batches
WRITTEN_AT_ONCE = 256  # rows held in memory before they are written


@dataclass(frozen=True)
class ExampleData:
    """n examples of k sequences on disk.

    rows: index, id, prompt_ids and completion_ids (k lists of token ids each), targets (k numbers, or none); a row of
        FILLER follows the examples.
    digests: one per example, of its token ids.
    lengths: (n,) tokens in each example's longest sequence.
    work: work of one pass over all examples.
    """

    rows: "Dataset"
    digests: list[str]
    lengths: np.ndarray
    sequences: int
    work: Work

    def __len__(self) -> int:
        return len(self.digests)


def build_data(examples: Iterable[Example], path: Path, sequences: int, context_length: int) -> ExampleData:
    """Write examples of k sequences into an Arrow file at `path`, and map it into memory.

    Raises:
        UserError: when an example does not fit into the context.
        ValueError: when there is no example, or one does not have k sequences.
    """
    from datasets import Dataset, Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    ids = List(List(Value("int32")))
    features = Features(
        {
            "index": Value("int64"),
            "id": Value("string"),
            "prompt_ids": ids,
            "completion_ids": ids,
            "targets": List(Value("float64")),
        }
    )
    digests, lengths, works = [], [], []
    with (
        whole(path) as temporary,
        ArrowWriter(path=str(temporary), features=features, writer_batch_size=WRITTEN_AT_ONCE) as writer,
    ):
        for index, example in enumerate(examples):
            _check(example, sequences, context_length)
            prompts = [list(sequence.prompt_ids) for sequence in example.sequences]
            completions = [list(sequence.completion_ids) for sequence in example.sequences]
            targets = list(example.targets)
            row = {"index": index, "id": example.id, "prompt_ids": prompts, "completion_ids": completions}
            writer.write({**row, "targets": targets})
            digests.append(hashlib.sha256(json.dumps([prompts, completions]).encode()).hexdigest())
            lengths.append(max(map(len, example.sequences)))
            works.append(example.work)
        if not digests:
            raise ValueError("there are no examples to train on")
        row = {"index": FILLER, "id": "", "prompt_ids": [[0]] * sequences, "completion_ids": [[0]] * sequences}
        writer.write({**row, "targets": [0.0] * len(targets)})
        writer.finalize()
    return ExampleData(Dataset.from_file(str(path)), digests, np.array(lengths), sequences, total(works))


def _check(example: Example, sequences: int, context_length: int) -> None:
    if len(example.sequences) != sequences:
        raise ValueError(
            f"example {example.id} has {len(example.sequences)} sequences, and the objective reads {sequences}"
        )
    if len(example.targets) not in (0, sequences):
        raise ValueError(f"example {example.id} has {len(example.targets)} targets for {sequences} sequences")
    longest = max(map(len, example.sequences))
    if longest > context_length:
        raise UserError(
            f"training example {example.id} has {longest} tokens, and the model's context holds {context_length}: "
            "leave it out, or shorten its prompt or completion"
        )


def update_order(lengths: "Sequence[int] | np.ndarray", batch_size: int, seed: int) -> list[int]:
    """The order in which examples are trained on, as indices.

    Each run of batch_size indices is one update; the last one may be smaller. Examples are shuffled, the examples of
    WINDOW updates are sorted by length so that an update has examples of similar length, and updates are shuffled.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    whole = len(order) - len(order) % batch_size
    updates = []
    for start in range(0, whole, WINDOW * batch_size):
        window = sorted(order[start : min(start + WINDOW * batch_size, whole)], key=lengths.__getitem__)
        updates += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    rng.shuffle(updates)
    return [index for update in updates for index in update] + sorted(order[whole:], key=lengths.__getitem__)


def trained_work(data: ExampleData, batch_size: int, seed: int, updates: int) -> Work:
    """Work of this many updates: whole passes over the examples, and the first updates of one more."""
    passes, more = divmod(updates, math.ceil(len(data) / batch_size))
    first = update_order(data.lengths, batch_size, seed)[: more * batch_size]
    return data.work * passes + total(of_sequences(sequences_of(row)) for row in data.rows.select(first))


def update_works(data: ExampleData, batch_size: int, seed: int) -> Iterator[Work]:
    """Work of each update of one pass over the examples, in the order of training."""
    order = update_order(data.lengths, batch_size, seed)
    for first in range(0, len(order), batch_size):
        rows = data.rows.select(order[first : first + batch_size])
        yield total(of_sequences(sequences_of(row)) for row in rows)


def in_order(data: ExampleData, batch_size: int, seed: int, per_pass: int) -> "Dataset":
    """The rows in the order of training, filled up to a multiple of `per_pass` (rows in one pass of all processes)."""
    order = update_order(data.lengths, batch_size, seed)
    return data.rows.select(order + [len(data)] * (-len(order) % per_pass))


def micro_batches(
    data: ExampleData, batch_size: int, seed: int, updates: int, size: int, processes: int
) -> Iterator[list[tuple[TokenIds, TokenIds]]]:
    """The (prompt, completion) sequences of each forward pass of this many updates.

    Args:
        size: examples per forward pass of one process.
    """
    rows = in_order(data, batch_size, seed, size * processes)
    per_epoch = math.ceil(len(data) / batch_size)
    for first in range(0, updates, per_epoch):
        for start in range(0, min((updates - first) * batch_size, len(rows)), size):
            chosen = rows.select(range(start, min(start + size, len(rows))))
            yield [pair for row in chosen for pair in sequences_of(row)]


@dataclass(frozen=True)
class Collator:
    """Makes a batch from rows of `ExampleData`.

    reference: (n, k) sums of log-probabilities of all examples under the reference, or None.
    """

    reference: np.ndarray | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> "dict[str, PackedBatch | torch.Tensor | list[str]]":
        """Return `packed`: the B * k sequences, those of an example in a row; `counts`: (B,) 1, or 0 for FILLER;
        `reference` and `targets`: (B, k), where there are any; `ids` of the rows."""
        import torch

        from harness.engines.packing import pack

        index = np.array([row["index"] for row in rows])
        batch = {
            "ids": [row["id"] for row in rows],
            "packed": pack([pair for row in rows for pair in sequences_of(row)]),
            "counts": torch.tensor(index != FILLER, dtype=torch.float32),
        }
        if rows[0]["targets"]:
            batch["targets"] = torch.tensor([row["targets"] for row in rows], dtype=torch.float32)
        if self.reference is not None:
            batch["reference"] = torch.tensor(self.reference[index], dtype=torch.float32)
        return batch


def sequences_of(row: dict[str, Any]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The (prompt, completion) sequences of a row."""
    return [
        (tuple(prompt), tuple(completion))
        for prompt, completion in zip(row["prompt_ids"], row["completion_ids"], strict=True)
    ]
