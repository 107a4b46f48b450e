"""Attention with a cache whose rows are single unpadded sequences.

A cache has slots, and each slot holds the keys and values of one sequence from its first token on. A forward pass reads
tokens of several sequences in one line without padding: one token of a sequence that is being continued, many of one
that is begun. Only attention treats sequences apart: those that read one token and are about equally long attend
together, with a mask.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engines.logprobs import Reading, head_reads, without_router_logits
from harness.engines.packing import NotPacked, check_arguments, explicit_attention, lay_out

ATTENTION = "harness_cached"  # the name under which transformers finds `cached_attention`
PADDING = 1 / 8  # most positions that a part attends to in vain, as a share of those it needs,
SLACK = {"cpu": 512, "cuda": 1 << 16}  # beyond this number, below which another part costs more
States = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values (H, n, D) of the first n tokens, layer by layer


@dataclass(frozen=True)
class Stretch:
    """Tokens of one sequence that a pass reads: its slot, how many tokens the slot holds before, and the tokens."""

    slot: int
    start: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """How many tokens the slot holds after the pass."""
        return self.start + len(self.tokens)


@dataclass(frozen=True)
class Together:
    """n neighbouring slots, from `first` on, that attend together with q tokens each to at most `seen` keys.

    places: (n, q) where the tokens are in the pass; arbitrary for a slot that reads none.
    positions: (n, q) their positions in their sequences.
    """

    first: int
    seen: int
    places: torch.Tensor
    positions: torch.Tensor
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def whole(self) -> bool:
        """Whether it is one sequence, read from its first token."""
        return self.places.shape == (1, self.seen)

    def mask(self, window: int | None) -> torch.Tensor:
        """Return the (n, 1, q, seen) mask: which token sees which key."""
        if window not in self._masks:
            keys, last = torch.arange(self.seen, device=self.positions.device), self.positions[:, None, :, None]
            mask = keys <= last
            self._masks[window] = mask if window is None else mask & (keys > last - window)
        return self._masks[window]


@dataclass(frozen=True)
class Pass:
    """T tokens of E sequences.

    input_ids, position_ids: (1, T). slots: (T,) the slot of each token.
    parts: who attends together. origin: (T,) the place of each token in what the parts return, laid end to end.
    reads: (E,) the place of each sequence's last token.
    lent: addresses of the keys that the cache has handed out.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    slots: torch.Tensor
    parts: tuple[Together, ...]
    origin: torch.Tensor
    reads: torch.Tensor
    lent: set[int] = field(default_factory=set, compare=False, repr=False)


def plan(entries: Sequence[Stretch], device: torch.device) -> Pass:
    """Lay out the tokens of entries, which are in the order of their slots."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    begins: list[int] = []
    for entry in entries:
        begins.append(len(ids))
        ids += entry.tokens
        positions += range(entry.start, entry.end)
        slots += [entry.slot] * len(entry.tokens)

    def tensor(values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, device=device)

    parts, origin, laid = [], [0] * len(ids), 0
    for numbers in _together(entries, SLACK.get(device.type, SLACK["cuda"])):
        first, last = entries[numbers[0]], entries[numbers[-1]]
        width = len(first.tokens)
        places = [list(range(width))] * (last.slot - first.slot + 1)
        starts = [0] * len(places)
        for number in numbers:
            row = entries[number].slot - first.slot
            places[row] = list(range(begins[number], begins[number] + width))
            starts[row] = entries[number].start
            origin[begins[number] : begins[number] + width] = range(laid + row * width, laid + (row + 1) * width)
        laid += len(places) * width
        in_sequence = tensor(starts)[:, None] + torch.arange(width, device=device)
        parts.append(Together(first.slot, max(entries[number].end for number in numbers), tensor(places), in_sequence))
    reads = [begin + len(entry.tokens) - 1 for begin, entry in zip(begins, entries, strict=True)]
    return Pass(tensor([ids]), tensor([positions]), tensor(slots), tuple(parts), tensor(origin), tensor(reads))


def _together(entries: Sequence[Stretch], slack: int) -> list[list[int]]:
    """Return the numbers of the entries of each part: those of one token in groups of about equal length."""
    alone = [[number] for number, entry in enumerate(entries) if len(entry.tokens) > 1]
    groups: list[list[int]] = []
    needed = longest = 0
    for number, entry in enumerate(entries):
        if len(entry.tokens) > 1:
            continue
        needed, longest = needed + entry.end, max(longest, entry.end)
        if groups:
            slots = entry.slot - entries[groups[-1][0]].slot + 1
            if slots * longest - needed <= slack + PADDING * needed:
                groups[-1].append(number)
                continue
        groups.append([number])
        needed = longest = entry.end
    return groups + alone


class SlotLayer(DynamicLayer):
    """Keys and values (slots, H, room, D) of one layer."""

    def __init__(self, slots: int, room: int) -> None:
        super().__init__()
        self.slots, self.room = slots, room

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = (
            states.new_zeros(self.slots, states.shape[1], self.room, states.shape[3])
            for states in (key_states, value_states)
        )

    def write(self, now: Pass, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Write the (1, H, T, D) states of a pass to the slots and positions of its tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            held[now.slots, :, now.position_ids[0]] = states[0].transpose(0, 1)


class SlotCache(Cache):
    """The cache of a model.

    Args:
        slots: how many sequences it holds.
        room: the most tokens of one.
    """

    def __init__(self, slots: int, room: int) -> None:
        super().__init__(layers=[])
        self.slots, self.room = slots, room
        self.now: Pass | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the states of the pass `now`; return all that the layer holds."""
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer(self.slots, self.room))
        layer = self.layers[layer_idx]
        if self.now is None or key_states.shape[2] != len(self.now.slots):
            raise NotPacked("its cache gets other states than those of the tokens that are read")
        layer.write(self.now, key_states, value_states)
        self.now.lent.add(layer.keys.data_ptr())
        return layer.keys, layer.values

    @property
    def held(self) -> States:
        return [(layer.keys, layer.values) for layer in self.layers if layer.is_initialized]

    @property
    def bytes_per_token(self) -> int:
        """How much memory a token takes, once a pass was made."""
        return sum(each.element_size() * each.shape[1] * each.shape[3] for pair in self.held for each in pair)

    def take(self, slot: int, length: int) -> States:
        """Return a copy of the states of the first tokens of a slot."""
        return [(keys[slot, :, :length].clone(), values[slot, :, :length].clone()) for keys, values in self.held]

    def put(self, slot: int, states: States) -> None:
        """Let a slot begin with these states."""
        for held, given in zip(self.held, states, strict=True):
            for target, source in zip(held, given, strict=True):
                target[slot, :, : source.shape[1]] = source

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of one slot to another."""
        for pair in self.held:
            for states in pair:
                states[target, :, :length] = states[source, :, :length]


@contextmanager
def attend_cached(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model attends to what `read` gives it."""
    before = model.config._attn_implementation
    with without_router_logits(model):
        model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            model.set_attn_implementation(before)


def read(model: PreTrainedModel, cache: SlotCache, now: Pass, reading: Reading) -> torch.Tensor:
    """Read the tokens of a pass inside `attend_cached`; return the (E, V) logits after each sequence."""
    cache.now = now
    given = {"input_ids": now.input_ids, "position_ids": now.position_ids, "past_key_values": cache, "packed": now}
    if reading.head == "whole":
        return model(**given, use_cache=True).logits[0].index_select(0, now.reads)
    with head_reads(model.get_output_embeddings(), now.reads):
        return model(**given, use_cache=True).logits


def cached_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed: Pass | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of a pass, in the form of transformers' attention functions.

    Args:
        query: (1, H, T, D).
        key, value: (slots, H', room, D) what the cache holds.
        packed: the pass, which the model passes on to its layers.
        s_aux: (H,) attention sinks (see `harness.engines.packing.packed_attention`).

    Returns:
        (1, T, H, D).

    Raises:
        NotPacked: for unknown arguments, or keys that are not the cache's.
    """
    now = check_arguments(packed, attention_mask, is_causal, other)
    if key.data_ptr() not in now.lent:
        raise NotPacked("its layers change what the cache holds before they attend to it")
    results = []
    for part in now.parts:
        rows = slice(part.first, part.first + len(part.places))
        q, k, v = lay_out(query, part.places), key[rows, :, : part.seen], value[rows, :, : part.seen]
        if softcap is not None or s_aux is not None:
            out = explicit_attention(q, k, v, part.mask(sliding_window), scaling, softcap, s_aux)
        else:
            out = _attend(q, k, v, part, sliding_window, scaling)
        results.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, now.origin)[None], None


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, part: Together, window: int | None, scaling: float | None
) -> torch.Tensor:
    """Return the (n, H, q, D) attention of a part; heads that share keys are one head's queries if it reads one token
    per slot, so that keys are not copied."""
    window = None if window is None or window >= part.seen else window
    if part.whole and window is None:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
    mask = part.mask(window)
    if q.shape[2] == 1:
        n, heads = k.shape[:2]
        folded = q.reshape(n, heads, q.shape[1] // heads, q.shape[3])
        out = F.scaled_dot_product_attention(folded, k, v, mask, scale=scaling)
        return out.reshape(n, q.shape[1], 1, v.shape[3])
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, cached_attention)
