"""Log-probabilities of completions: the one implementation that scoring and training share."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from harness.engines import flex, packing
from harness.engines.packing import PackedBatch, pack
from harness.engines.token_logprobs import token_logprobs
from harness.types import TokenIds

ATTENTIONS = {"sdpa": packing.ATTENTION, "flex": flex.ATTENTION}


@dataclass(frozen=True)
class Reading:
    """How log-probabilities are read from a model (see `harness.engines.reading.how_to_read`).

    packs: sequences are packed; else each has its own row.
    head: "scored" if the logits are the output of a linear LM head alone, so that they can be computed block by block;
        "read" if the head sees only the hidden states that are read; "whole" if it sees all of them.
    attention: for packed sequences, a name in ATTENTIONS.
    pads: if the model is not packed, whether rows of different lengths can share a forward pass.
    together: the longest sequence that can share a forward pass (a longer one changes the rotary embedding of all).
    reason: why the model is not packed.
    """

    packs: bool
    head: str = "scored"
    attention: str = "sdpa"
    pads: bool = False
    together: int | None = None
    reason: str = ""

    @property
    def described(self) -> str:
        """The way in two or three words."""
        if self.packs:
            return f"packed {self.attention}"
        return "padded" if self.pads else "one by one"

    @property
    def fills(self) -> bool:
        """Whether it may compute more positions than are needed."""
        return not self.packs or self.together is not None


@contextmanager
def attend_packed(model: PreTrainedModel, reading: Reading) -> Iterator[None]:
    """Inside, the model attends to packed batches, if it is packed, and returns router logits only when asked."""
    before = model.config._attn_implementation
    with without_router_logits(model):
        if reading.packs:
            model.set_attn_implementation(ATTENTIONS[reading.attention])
        try:
            yield
        finally:
            model.set_attn_implementation(before)


@contextmanager
def without_router_logits(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a mixture of experts whose configuration asks for router logits returns them only when asked: its
    auxiliary loss fails on a mask that includes a cache, as in generation."""
    configs = [model.config, model.config.get_text_config()]
    asking = [config for config in configs if getattr(config, "output_router_logits", False)]
    for config in asking:
        config.output_router_logits = False
    try:
        yield
    finally:
        for config in asking:
            config.output_router_logits = True


def sequence_logprobs(model: torch.nn.Module, batch: PackedBatch, reading: Reading) -> torch.Tensor:
    """Return the (S,) sums of the log-probabilities of a batch's completions, in nats.

    Gradients flow unless the caller disables them.

    Args:
        model: a causal language model of transformers inside `attend_packed`, or its wrapper for distributed training.
        batch: on the model's device.
        reading: how the model is read.
    """
    return logprobs_and_balance(model, batch, reading)[0]


def logprobs_and_balance(
    model: torch.nn.Module, batch: PackedBatch, reading: Reading, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what `sequence_logprobs` returns, and with `weights` the load-balancing loss of a mixture of experts.

    Args:
        weights: (S,) how often the tokens of each sequence count in that loss.
    """
    parts = list(_parts(batch, reading))
    sums, balances, shares = [], [], []
    for part, places in parts:
        weighting = None if weights is None else weights[torch.tensor(places, device=weights.device)]
        forward = packed_forward(part, weighting) if reading.packs else padded_forward(part, weighting)
        values, balance = target_logprobs(model, forward, reading.head)
        sums.append(values.new_zeros(len(part.lengths)).index_add(0, part.owners, values[forward.entries]))
        if balance is not None:
            shares.append(forward.arguments["attention_mask"].sum())
            balances.append(balance * shares[-1])
    order = torch.tensor([place for _, places in parts for place in places], device=sums[0].device)
    ordered = sums[0] if len(parts) == 1 else torch.cat(sums)[order.argsort()]
    return ordered, None if weights is None else sum(balances) / sum(shares).clamp(min=1)


def _parts(batch: PackedBatch, reading: Reading) -> Iterator[tuple[PackedBatch, list[int]]]:
    """Yield the parts of a batch that share a forward pass, each with the indices of its sequences."""
    shared = _passes(batch.pairs, reading)
    for places in shared:
        whole = len(shared) == 1 and len(places) == len(batch.pairs)
        yield batch if whole else pack([batch.pairs[index] for index in places]).to(batch.input_ids.device), places


def _passes(pairs: Sequence[tuple[TokenIds, TokenIds]], reading: Reading) -> list[list[int]]:
    """Return the indices of the sequences of each forward pass."""
    everything = list(range(len(pairs)))
    many = (
        reading.together is not None and torch.distributed.is_initialized()
    )  # sharded models need the same number of passes in each process
    long = [many or (reading.together is not None and sum(map(len, pair)) > reading.together) for pair in pairs]
    alone = everything if not (reading.packs or reading.pads) else [index for index in everything if long[index]]
    rest = [index for index in everything if index not in set(alone)]
    return [*([rest] if rest else []), *([index] for index in alone)]


def computed_positions(pairs: Sequence[tuple[TokenIds, TokenIds]], reading: Reading) -> int:
    """How many positions a batch of sequences (prompt, completion) takes. Packed, each prompt is there once; else each
    sequence has its own and is padded to the longest of its pass."""
    number = 0
    for places in _passes(pairs, reading):
        together = [pairs[index] for index in places]
        lengths = [sum(map(len, pair)) for pair in together]
        number += sum(map(len, packing.rows_of(together))) if reading.packs else len(together) * max(lengths)
    return number


@dataclass(frozen=True)
class Forward:
    """A forward pass.

    arguments: of the model, except `use_cache`.
    reads: (r,) places in the flattened input whose next token is a completion token.
    targets, after: (n,) see PackedBatch.
    entries: (m,) for each token of a sequence (in the order of the batch's `owners`) its place in `targets`.
    """

    arguments: dict[str, Any]
    reads: torch.Tensor
    targets: torch.Tensor
    entries: torch.Tensor
    after: torch.Tensor | None = None


def packed_forward(batch: PackedBatch, weights: torch.Tensor | None) -> Forward:
    """Return the forward pass of a packed batch."""
    arguments = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "packed": batch}
    if weights is not None:  # for the load-balancing loss alone: packed attention has its own mask
        arguments |= {"attention_mask": _token_weights(batch, weights), "output_router_logits": True}
    return Forward(arguments, batch.reads, batch.targets, batch.entries, batch.after)


def _token_weights(batch: PackedBatch, weights: torch.Tensor) -> torch.Tensor:
    """Return the (1, T) weighted number of sequences that hold each token: its weight if nothing were shared."""
    counts = []
    for row in packing.rows_of(batch.pairs):
        each = [weights[list(sequences)].sum().float() for sequences in row.sequences]
        shared = torch.stack(each).sum().expand(len(row.prompt))
        counts += [shared, *(weight.expand(len(part)) for weight, part in zip(each, row.completions, strict=True))]
    return torch.cat(counts)[None]


def padded_forward(batch: PackedBatch, weights: torch.Tensor | None) -> Forward:
    """Return a forward pass with one row per sequence, padded on the right, where none of its tokens attends."""
    device = batch.input_ids.device
    longest = max(len(prompt) + len(completion) for prompt, completion in batch.pairs)
    ids: list[list[int]] = []
    mask: list[list[int]] = []
    reads: list[int] = []
    targets: list[int] = []
    for number, (prompt, completion) in enumerate(batch.pairs):
        row = [*prompt, *completion]
        first = max(1, len(prompt))
        reads += range(number * longest + first - 1, number * longest + len(row) - 1)
        targets += row[first:]
        ids.append(row + row[-1:] * (longest - len(row)))
        mask.append([1] * len(row) + [0] * (longest - len(row)))
    arguments: dict[str, Any] = {"input_ids": torch.tensor(ids, device=device)}
    if len(batch.pairs) > 1 or weights is not None:
        arguments["attention_mask"] = torch.tensor(mask, device=device)
    if weights is not None:
        arguments["output_router_logits"] = True
    owned = _owned(batch.pairs)
    return Forward(arguments, *(torch.tensor(values, device=device) for values in (reads, targets, owned)))


def _owned(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> list[int]:
    """Return the places of all sequences' targets, in the order of a packed batch."""
    starts, total = [], 0
    lengths = [len(completion) - (not prompt) for prompt, completion in pairs]
    for length in lengths:
        starts.append(total)
        total += length
    return [
        starts[sequence] + step
        for row in packing.rows_of(pairs)
        for sequences in row.sequences
        for sequence in sequences
        for step in range(lengths[sequence])
    ]


def target_logprobs(model: torch.nn.Module, forward: Forward, head: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the (n,) log-probabilities of the targets, and the load-balancing loss if it was asked for."""
    through: AbstractContextManager[None] = nullcontext()
    if head != "whole":
        module = getattr(model, "module", model).get_output_embeddings()
        through = _head_scores(module, forward) if head == "scored" else head_reads(module, forward.reads)
    with through:
        output = model(**forward.arguments, use_cache=False)
    values = output.logits
    if head == "whole":
        values = values.flatten(0, -2).index_select(0, forward.reads)
    if head != "scored":
        logits = values if values.dtype == torch.float64 else values.float()
        logits = logits if forward.after is None else logits.index_select(0, forward.after)
        values = -F.cross_entropy(logits, forward.targets, reduction="none")
    balance = output.aux_loss if "output_router_logits" in forward.arguments else None
    return values, balance


@contextmanager
def _head_scores(head: torch.nn.Linear, forward: Forward) -> Iterator[None]:
    """Inside, the model's "logits" are the (n,) log-probabilities of the targets.

    The model's own forward pass runs, which wrappers for distributed training must see, but logits never exist.
    """

    def score(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.flatten(0, -2).index_select(0, forward.reads)
        return token_logprobs(hidden, head.weight, head.bias, forward.targets, forward.after)

    head.forward = score
    try:
        yield
    finally:
        del head.forward


@contextmanager
def head_reads(head: torch.nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Inside, the LM head gets only the hidden states at these (n,) places of the flattened input, and the logits are
    (n, V)."""

    def select(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(0, -2).index_select(0, places), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
