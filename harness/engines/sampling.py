"""Sampling of tokens with common random numbers.

A token is drawn by the Gumbel-max trick with noise that is a hash of (seed, item, step, token id). The noise does not
depend on the batch, so neither does an item's text. Two models that answer the same item with the same seed get the
same noise, which makes differences of their scores less noisy than independent draws.
"""

import hashlib
from collections.abc import Sequence

import torch

from harness.engines.base import Sampling

# SplitMix64 (Steele, Lea and Flood 2014, figure 16): increment of the stream and multipliers of the finalizer,
# as signed 64-bit integers. Integer overflow wraps around in torch, as the algorithm needs.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
MULTIPLIER_2 = 0x94D049BB133111EB - 2**64
UNIFORM_BITS = 40  # far more than the 24 of a float32, so that small values keep their relative precision


def item_keys(items: Sequence[str], seed: int) -> torch.Tensor:
    """Return (n,) int64 keys of the items' noise: the first 8 bytes of the SHA-256 of seed and item."""
    digests = (hashlib.sha256(f"{seed}/{item}".encode()).digest() for item in items)
    return torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in digests], dtype=torch.int64)


def split_mix(state: torch.Tensor) -> torch.Tensor:
    """Apply SplitMix64's finalizer, a bijection of int64 that looks random. Overwrites `state`."""
    state.bitwise_xor_(_shift_right(state, 30)).mul_(MULTIPLIER_1)
    state.bitwise_xor_(_shift_right(state, 27)).mul_(MULTIPLIER_2)
    return state.bitwise_xor_(_shift_right(state, 31))


def _shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift logically (filling with zeros); torch's own shift of a signed integer copies the sign."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def gumbel_noise(keys: torch.Tensor, step: int | torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return standard Gumbel noise for one token of each item.

    Args:
        keys: (n,) int64 keys of the items.
        step: index of the token in the completion, from 0: one for all, or (n,).
        vocabulary: size V of the vocabulary.

    Returns:
        (n, V) float32 values -log(E), E exponential with mean 1: row i is the SplitMix64 stream whose seed is a hash
        of key i and the step.
    """
    streams = split_mix(keys + torch.as_tensor(step + 1, device=keys.device) * GAMMA)
    counters = torch.arange(1, vocabulary + 1, device=keys.device) * GAMMA
    bits = _shift_right(split_mix(streams[:, None] + counters), 64 - UNIFORM_BITS)
    # Tokens win by a small E, so E comes from small uniforms u, which floats resolve well: E = -log(1 - u).
    # Rounding must not reach 0 or 1, whose noise would be infinite.
    uniform = bits.float().add_(0.5).mul_(2.0**-UNIFORM_BITS).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def top_p_filter(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Set logits (n, V) to -inf outside of the nucleus, the smallest set of most likely tokens whose probabilities
    reach top_p (Holtzman et al. 2020, section 3.1). The most likely token always stays."""
    ordered, tokens = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    outside = before >= top_p
    outside[:, 0] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter_(1, tokens, outside), float("-inf"))


def sample_tokens(
    logits: torch.Tensor, keys: torch.Tensor, step: int | torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """Draw (n,) token ids from logits (n, V), applying temperature and then top-p, as is usual (see `gumbel_noise`)."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_p < 1:
        logits = top_p_filter(logits, sampling.top_p)
    return (logits + gumbel_noise(keys, step, logits.shape[-1])).argmax(dim=-1)
