"""Attention of packed sequences by FlexAttention, for CUDA: one kernel over the whole sequence, which skips blocks in
which no position sees another. (`packed_attention` stacks and pads rows instead.)"""

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engines.packing import PackedBatch, check_arguments

ATTENTION = "harness_packed_flex"  # the name under which transformers finds `flex_packed_attention`


def flex_packed_attention(
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
    """Compute what `packed_attention` computes, from the same arguments. On the CPU, without gradients only."""
    packed = check_arguments(packed, attention_mask, is_causal, other)

    def cap(score: torch.Tensor, batch: Any, head: Any, query_index: Any, key_index: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    out = _kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=block_mask(packed, sliding_window),
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
        return_aux=None if s_aux is None else AuxRequest(lse=True),
    )
    if s_aux is not None:  # a sink adds exp(sink) to the sum that the weights are divided by
        out, more = out
        out = out * (more.lse - s_aux.to(more.lse.dtype)[:, None]).sigmoid()[..., None].to(out.dtype)
    return out.transpose(1, 2), None


def block_mask(packed: PackedBatch, sliding_window: int | None) -> BlockMask:
    """Return the mask by which a position sees what its sequences have before it, in the window.

    Made once per batch and window; all layers share it.
    """
    if sliding_window not in packed.block_masks:
        ends, positions = packed.ends, packed.position_ids[0]

        def sees(batch: Any, head: Any, query_index: Any, key_index: Any) -> torch.Tensor:
            seen = (key_index <= query_index) & (query_index < ends[key_index])
            if sliding_window is not None:
                seen = seen & (positions[query_index] - positions[key_index] < sliding_window)
            return seen

        mask = create_block_mask(sees, None, None, packed.tokens, packed.tokens, device=ends.device)
        packed.block_masks[sliding_window] = mask
    return packed.block_masks[sliding_window]


@cache
def _kernel(device: str) -> Any:
    """Return FlexAttention, compiled for a GPU: otherwise it is slow and holds all scores."""
    return flex_attention if device == "cpu" else torch.compile(flex_attention, dynamic=True)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, flex_packed_attention)
