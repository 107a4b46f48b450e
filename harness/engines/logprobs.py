"""Log-probabilities of completions: the one implementation that scoring and training share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from harness.engines import flex, packing
from harness.engines.packing import PackedBatch, pack
from harness.engines.token_logprobs import token_logprobs

ATTENTIONS = {"sdpa": packing.ATTENTION, "flex": flex.ATTENTION}
PACKED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Reading:
    """How log-probabilities are read from a model.

    packs: its layers mix positions by attention alone, so that sequences can be packed. (Convolutions and recurrent
        states would run on from one row into the next; such a model reads each sequence by itself.)
    plain_head: its logits are the output of a linear LM head and nothing else, no scaling and no cap, so that they can
        be computed block by block.
    attention: of packed sequences, a name in ATTENTIONS.
    """

    packs: bool
    plain_head: bool
    attention: str = "sdpa"


@torch.no_grad()
def how_to_read(model: PreTrainedModel, attention: str = "sdpa") -> Reading:
    """Looks at the model's layers, and compares its logits with the output of its head."""
    head = model.get_output_embeddings()
    outputs = []
    handle = head.register_forward_hook(lambda _head, _inputs, output: outputs.append(output))
    try:
        logits = model(input_ids=torch.arange(1, 4, device=model.device)[None], use_cache=False).logits
    finally:
        handle.remove()
    layers = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return Reading(
        packs=bool(model._supports_attention_backend and not model._is_stateful and PACKED_LAYERS.issuperset(layers)),
        plain_head=type(head) is torch.nn.Linear and torch.equal(outputs[0], logits),
        attention=attention,
    )


@contextmanager
def attend_packed(model: PreTrainedModel, reading: Reading) -> Iterator[None]:
    """Inside, the model's attention is that of packed batches."""
    before = model.config._attn_implementation
    if reading.packs:
        model.set_attn_implementation(ATTENTIONS[reading.attention])
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def sequence_logprobs(model: torch.nn.Module, batch: PackedBatch, reading: Reading) -> torch.Tensor:
    """(S,) sums of the log-probabilities of the completions of a batch, in nats.

    Gradients flow unless they are switched off outside.

    Args:
        model: a causal language model of transformers that attends to packed batches (`attend_packed`), or its wrapper
            for distributed training.
        batch: on the model's device.
        reading: of the model.
    """
    if not reading.packs:
        alone = [pack([pair]).to(batch.input_ids.device) for pair in batch.pairs]
        return torch.cat([_sums(model, each, reading.plain_head) for each in alone])
    return _sums(model, batch, reading.plain_head, packed=batch)


def _sums(model: torch.nn.Module, batch: PackedBatch, plain_head: bool, **to_layers: PackedBatch) -> torch.Tensor:
    head = getattr(model, "module", model).get_output_embeddings()
    with _head_scores(head, batch) if plain_head else _head_reads(head, batch):
        output = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **to_layers
        ).logits
    if not plain_head:
        logits = output if output.dtype == torch.float64 else output.float()
        output = -F.cross_entropy(logits, batch.targets, reduction="none")
    sums = output.new_zeros(len(batch.lengths))
    return sums.index_add(0, batch.owners, output[batch.entries])


@contextmanager
def _head_scores(head: torch.nn.Linear, batch: PackedBatch) -> Iterator[None]:
    """Inside, the model's "logits" are the (n,) log-probabilities of the targets.

    It stays the model's own forward pass, which wrappers for distributed training must see; the logits are never there.
    """

    def score(hidden: torch.Tensor) -> torch.Tensor:
        return token_logprobs(hidden[0].index_select(0, batch.reads), head.weight, head.bias, batch.targets)

    head.forward = score
    try:
        yield
    finally:
        del head.forward


@contextmanager
def _head_reads(head: torch.nn.Module, batch: PackedBatch) -> Iterator[None]:
    """Inside, the LM head gets the hidden states that are read only, and the logits are (n, V)."""

    def select(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][0].index_select(0, batch.reads), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
