"""Batched generation with any causal language model of transformers.

The loop reads equal prompts once, removes finished rows from the batch, and writes keys and values into buffers that
are allocated once, which on small models saves the most; sampling is `harness.engines.sampling`.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.engines.base import Sampling
from harness.engines.sampling import sample_tokens
from harness.progress import Advance
from harness.types import TokenIds

COMPACT_BELOW = 0.95  # remove finished rows when fewer than this share still run (removal copies the cache)
MOST_PADDING = 0.07  # of a batch's tokens: its prompts and what is expected to be sampled
EXPECTED = 0.25  # expected length of a completion, as a share of its limit


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room for every token to come.

    The parent class copies the whole past at each step.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._buffers = tuple(
            states.new_empty(*states.shape[:2], self.room, states.shape[3]) for states in (key_states, value_states)
        )
        self._length = 0
        self._show()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self._length = self._length, self._length + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self._length] = states
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._buffers = tuple(buffer.index_select(0, beam_idx) for buffer in self._buffers)
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


def preallocated_cache(model: torch.nn.Module, room: int) -> DynamicCache:
    """Return the model's own kind of cache (sliding windows, linear attention) with its plain layers preallocated."""
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def alike(prompts: Sequence[TokenIds], limits: Sequence[int]) -> int:
    """How many of these prompts, longest first, share a batch: as many as need little padding, equal ones once.

    Args:
        limits: most new tokens of each.
    """
    longest, tokens, padding = len(prompts[0]), 0.0, 0
    distinct: set[TokenIds] = set()
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        tokens += EXPECTED * limit
        if prompt not in distinct:
            distinct.add(prompt)
            tokens, padding = tokens + len(prompt), padding + longest - len(prompt)
            if padding > MOST_PADDING * tokens:
                return number
    return len(prompts)


@dataclass(frozen=True)
class Generated:
    """A completion's tokens, and how many positions were computed for it (see `harness.engines.base.Completion`)."""

    token_ids: list[int]
    computed: int


def generate_batch(
    model: torch.nn.Module,
    prompts: Sequence[TokenIds],
    keys: torch.Tensor,
    limits: Sequence[int],
    stop_tokens: Sequence[int],
    pad_token_id: int,
    sampling: Sampling,
    advance: Advance | None = None,
) -> list[Generated]:
    """Generate one batch of completions, each with its stop token if that came before its limit.

    Args:
        keys: (n,) keys of the items' noise, see `item_keys`.
        limits: most new tokens of each prompt.
    """
    device = model.device
    longest = max(map(len, prompts))
    distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    prompt_of = torch.tensor([distinct[prompt] for prompt in prompts], device=device)
    input_ids = torch.tensor(
        [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in distinct], device=device
    )
    columns = torch.arange(longest + max(limits), device=device)
    padding = torch.tensor([longest - len(prompt) for prompt in distinct], device=device)
    seen = (columns >= padding[:, None]).long()
    position_ids = (columns[:longest] - padding[:, None]).clamp_(min=0)
    stops = torch.tensor(sorted(stop_tokens), device=device)
    keys, ends = keys.to(device), torch.tensor(limits, device=device)
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    cache = preallocated_cache(model, len(columns))
    tokens = torch.full((len(prompts), max(limits)), pad_token_id, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    computed = torch.zeros_like(lengths)
    computed[[prompts.index(prompt) for prompt in distinct]] = longest
    rows = torch.arange(len(prompts), device=device)  # the prompt of each row of the running batch
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)

    for step in range(tokens.shape[1]):
        if "position_ids" in accepted:
            options["position_ids"] = position_ids
        logits = model(
            input_ids=input_ids,
            attention_mask=seen[:, : longest + step],
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits[:, -1]
        if step:
            computed[rows] += 1
        elif len(distinct) < len(prompts):
            cache.reorder_cache(prompt_of)
            logits, seen, padding = logits[prompt_of], seen[prompt_of], padding[prompt_of]
        chosen = sample_tokens(logits, keys, step, sampling)
        tokens[rows, step] = chosen
        lengths[rows] += running
        ended = running & (torch.isin(chosen, stops) | (ends == step + 1))
        running = running & ~ended
        left = int(running.sum())
        if advance and (count := int(ended.sum())):
            advance(count)
        if left == 0:
            break
        if left < COMPACT_BELOW * len(rows):
            kept = running.nonzero().squeeze(1)
            cache.reorder_cache(kept)
            rows, keys, ends, seen, padding, chosen, running = (
                values[kept] for values in (rows, keys, ends, seen, padding, chosen, running)
            )
        input_ids = chosen[:, None]
        position_ids = (longest + step - padding)[:, None]
    made = zip(tokens.tolist(), lengths.tolist(), computed.tolist(), strict=True)
    return [Generated(row[:length], positions) for row, length, positions in made]
