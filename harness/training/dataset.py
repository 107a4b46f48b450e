"""Examples as batches: their order, the rows of the trainer's dataset, and packing."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.engines.base import LogProb
from harness.errors import UserError
from harness.training.examples import Example

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from harness.engines.packing import PackedBatch

WINDOW = 8  # updates whose examples are sorted by length together: more saves padding, and mixes the examples less


def update_order(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """The order in which examples are trained on, as indices.

    Each run of batch_size indices is one update, the last one perhaps smaller. Examples are shuffled, those of WINDOW
    updates are sorted by length so that an update has examples of similar length, and the updates are shuffled again.
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


def build_dataset(
    examples: Sequence[Example], reference: Sequence[tuple[LogProb, ...]] | None, order: Sequence[int]
) -> "Dataset":
    """Rows in the given order, each with its id, the token ids of its k sequences and their reference log-probabilities
    (sums)."""
    from datasets import Dataset

    columns: dict[str, list] = {
        "id": [examples[index].id for index in order],
        "prompt_ids": [[each.prompt_ids for each in examples[index].sequences] for index in order],
        "completion_ids": [[each.completion_ids for each in examples[index].sequences] for index in order],
    }
    if reference is not None:
        columns["reference"] = [[logprob.total for logprob in reference[index]] for index in order]
    return Dataset.from_dict(columns)


def collate(rows: Sequence[dict[str, Any]]) -> "dict[str, PackedBatch | torch.Tensor | list[str]]":
    """Rows of `build_dataset` as one batch: `packed` with the B * k sequences, those of an example one after another,
    `reference` (B, k), and the rows' `ids`."""
    import torch

    from harness.engines.packing import pack

    pairs = [pair for row in rows for pair in zip(row["prompt_ids"], row["completion_ids"], strict=True)]
    batch = {"ids": [row["id"] for row in rows], "packed": pack(pairs)}
    if "reference" in rows[0]:
        batch["reference"] = torch.tensor([row["reference"] for row in rows])
    return batch


def check_examples(examples: Sequence[Example], sequences: int, context_length: int) -> None:
    """Raises UserError when an example does not fit the context, ValueError when it is not one of k sequences."""
    if not examples:
        raise ValueError("there are no examples to train on")
    for example in examples:
        if len(example.sequences) != sequences:
            raise ValueError(f"example {example.id} has {len(example.sequences)} sequences, the objective {sequences}")
        longest = max(map(len, example.sequences))
        if longest > context_length:
            raise UserError(
                f"training example {example.id} has {longest} tokens and the model's context ends at {context_length}: "
                "leave it out or shorten its prompt or completion"
            )
