"""Packing: completions of one prompt share it, and a batch of rows is one sequence without padding.

A row is a prompt followed by its completions. Each completion sees the prompt and itself but not the others, and its
positions continue from the prompt. All rows of a batch are concatenated into one sequence, so every layer works on real
tokens alone. Only attention needs rows of equal length: there, rows of similar length are stacked with a mask, and
flattened again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.types import TokenIds

ATTENTION = "harness_packed"  # the name under which transformers finds `packed_attention`
WITHOUT_EFFECT = {  # arguments of attention functions that do not change what they return
    *("position_ids", "cache_position", "position_embeddings", "use_cache", "past_key_values", "layer_idx", "labels"),
    *("return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "target_dtype"),
}
GROUP_TOKENS = 2048  # most positions of the rows stacked for attention, unless one row is longer
P = TypeVar("P")


@dataclass(frozen=True)
class PackedRow:
    """A prompt, its distinct completions, and the indices of the sequences that have each completion."""

    prompt: TokenIds
    completions: tuple[TokenIds, ...]
    sequences: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass(frozen=True)
class Group:
    """n stacked stretches of L tokens or fewer, which see K keys or fewer.

    places: (n, L) where each token is in the packed sequence; arbitrary beyond a stretch's end.
    keys: (n, K) where each key is; the same if stretches are whole rows.
    mask: (n, 1, L, K) True where the token of the third dimension sees the key of the fourth.
    """

    places: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class PackedBatch:
    """S sequences that share what they begin with; T tokens in total.

    pairs: the sequences, (prompt, completion).
    input_ids, position_ids: (1, T).
    ends: (T,) a token is seen by the tokens from its own place up to here, and by no others.
    groups: who attends together. origin: (T,) the place of each token of the packed sequence in the stacked groups.
    reads: (r,) the places whose next token is a completion token.
    targets: (n,) completion tokens. after: (n,) the number of each one's place in `reads`; None if they are in order.
    owners: (m,) and entries: (m,) sequence m' has the targets `entries` where owners == m'.
    lengths: (S,) completion tokens that have a probability: all, except the first one if the prompt is empty.
    block_masks: FlexAttention's block masks of this batch, by sliding window.
    """

    pairs: tuple[tuple[TokenIds, TokenIds], ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    ends: torch.Tensor
    groups: tuple[Group, ...]
    origin: torch.Tensor
    reads: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    entries: torch.Tensor
    lengths: torch.Tensor
    after: torch.Tensor | None = None
    block_masks: dict[int | None, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        def move(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, Group):
                return Group(*map(move, vars(value).values()))
            return None if value is None else tuple(map(move, value))

        moved = {name: move(value) for name, value in vars(self).items() if name not in ("pairs", "block_masks")}
        return replace(self, **moved, block_masks={})


def rows_of(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> list[PackedRow]:
    """Arrange (prompt, completion) sequences in rows, one per distinct prompt, in order of first occurrence."""
    prompts: dict[TokenIds, dict[TokenIds, list[int]]] = {}
    for index, (prompt, completion) in enumerate(pairs):
        prompt, completion = tuple(prompt), tuple(completion)
        check_pair(prompt, completion)
        prompts.setdefault(prompt, {}).setdefault(completion, []).append(index)
    return [
        PackedRow(prompt, tuple(completions), tuple(map(tuple, completions.values())))
        for prompt, completions in prompts.items()
    ]


def check_pair(prompt: TokenIds, completion: TokenIds) -> None:
    """
    Raises:
        ValueError: when no token of the completion has one before it.
    """
    if len(completion) < (1 if prompt else 2):
        raise ValueError("a sequence needs at least one completion token with a token before it")


def apart(rows: Sequence[PackedRow]) -> list[PackedRow]:
    """Split rows into one row per completion."""
    return [
        PackedRow(row.prompt, (completion,), (sequences,))
        for row in rows
        for completion, sequences in zip(row.completions, row.sequences, strict=True)
    ]


def pack(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> PackedBatch:
    """Pack (prompt, completion) sequences; each needs a completion token with a token before it."""
    rows = rows_of(pairs)
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    reads: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    entries: list[int] = []
    lengths = [0] * len(pairs)
    starts = []
    for row in rows:
        start, end = len(ids), len(ids) + len(row.prompt)
        starts.append(start)
        ids += row.prompt
        positions += range(len(row.prompt))
        ends += [start + len(row)] * len(row.prompt)
        for completion, sequences in zip(row.completions, row.sequences, strict=True):
            ends += [len(ids) + len(completion)] * len(completion)
            first, scored = len(ids), completion if row.prompt else completion[1:]
            before = [end - 1] if row.prompt else []
            reads += before + list(range(first, first + len(completion) - 1))
            for sequence in sequences:
                owners += [sequence] * len(scored)
                entries += range(len(targets), len(targets) + len(scored))
                lengths[sequence] = len(scored)
            targets += scored
            ids += completion
            positions += range(len(row.prompt), len(row.prompt) + len(completion))
    groups, origin = _groups(rows, starts)
    return PackedBatch(
        tuple(pairs),
        torch.tensor([ids]),
        torch.tensor([positions]),
        torch.tensor(ends),
        groups,
        origin,
        *map(torch.tensor, (reads, targets, owners, entries, lengths)),
    )


def _groups(rows: Sequence[PackedRow], starts: Sequence[int]) -> tuple[tuple[Group, ...], torch.Tensor]:
    """Group rows of similar length; also return the place of each token of the packed sequence in the groups."""
    origin = torch.empty(sum(map(len, rows)), dtype=torch.long)
    groups, laid = [], 0
    by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    while by_length:
        longest = len(rows[by_length[0]])
        number = max(1, GROUP_TOKENS // longest)
        chosen, by_length = by_length[:number], by_length[number:]
        places = torch.stack(
            [starts[index] + torch.arange(longest).clamp(max=len(rows[index]) - 1) for index in chosen]
        )
        groups.append(Group(places, places, torch.stack([_mask(rows[index], longest) for index in chosen])))
        for index in chosen:
            origin[starts[index] : starts[index] + len(rows[index])] = torch.arange(laid, laid + len(rows[index]))
            laid += longest
    return tuple(groups), origin


def _mask(row: PackedRow, size: int) -> torch.Tensor:
    """Return the (1, size, size) mask of a row: a position sees itself, what precedes it in its completion, and the
    prompt."""
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    start = end = len(row.prompt)
    for completion in row.completions:
        end += len(completion)
        mask[end:, start:end] = False
        start = end
    mask.fill_diagonal_(True)  # a position that sees nothing would give NaN
    return mask[None]


class NotPacked(Exception):
    """The model's attention does something that packed attention does not support."""


def check_arguments(packed: P | None, attention_mask: Any, is_causal: bool | None, other: dict[str, Any]) -> P:
    """Check that a layer asks nothing of its attention that would change the result unsupported.

    Returns:
        What is read together.

    Raises:
        NotPacked: naming what is not supported.
    """
    if packed is None:
        raise NotPacked("its layers do not pass arguments on to attention")
    if attention_mask is not None:
        raise NotPacked("its layers give attention their own mask")
    if is_causal is False:
        raise NotPacked("its attention sees later tokens")
    unknown = [name for name, value in other.items() if value is not None and name not in WITHOUT_EFFECT]
    if unknown:
        raise NotPacked(f"its layers give attention {', '.join(sorted(unknown))}, which packed attention does not know")
    return packed


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed: PackedBatch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of a packed sequence, in the form of transformers' attention functions.

    Args:
        query, key, value: (1, H, T, D); key and value have fewer heads if groups of queries share them.
        packed: the batch, which the model passes on to its layers.
        s_aux: (H,) attention sinks: the score of one more key per head, which has no value.

    Returns:
        (1, T, H, D).

    Raises:
        NotPacked: for unknown arguments.
    """
    packed = check_arguments(packed, attention_mask, is_causal, other)
    results, positions = [], packed.position_ids[0]
    for group in packed.groups:
        q, k, v = lay_out(query, group.places), lay_out(key, group.keys), lay_out(value, group.keys)
        mask = group.mask
        if sliding_window is not None and group.keys.shape[1] > sliding_window:
            distance = positions[group.places][:, None, :, None] - positions[group.keys][:, None, None, :]
            mask = mask & (distance < sliding_window)
        grouped = k.shape[1] != q.shape[1]
        if softcap is None and s_aux is None:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling, enable_gqa=grouped)
        else:
            out = explicit_attention(q, k, v, mask, scaling, softcap, s_aux)
        results.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, packed.origin)[None], None


def lay_out(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Reshape (1, H, T, D) to (n, H, L, D)."""
    laid = states[0].transpose(0, 1).index_select(0, places.flatten())
    return laid.view(*places.shape, *laid.shape[1:]).transpose(1, 2)


def explicit_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Compute attention with scores capped by softcap * tanh(score / softcap), as in Gemma 2, or with a sink per head,
    as in gpt-oss."""
    repeated = q.shape[1] // k.shape[1]
    k, v = (states.repeat_interleave(repeated, dim=1) for states in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sinks = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., : k.shape[2]]
    return weights.to(q.dtype) @ v


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
