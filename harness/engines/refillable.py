"""Whether generation can refill a batch with any model, decided by comparison with the model's own forward pass."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from transformers import PreTrainedModel

from harness.engines.cached import SlotCache, Stretch, attend_cached, plan, read
from harness.engines.logprobs import Reading, without_router_logits
from harness.engines.reading import FAILURES, TOLERANCE, reason_of, some_tokens

ROOM = 16  # tokens of the longest sequence that is compared


@dataclass(frozen=True)
class Refilling:
    """Whether batches are refilled (`harness.engines.refill`): `reason` says why not, and is "" if they are.

    bytes_per_token: what the cache needs for a token.
    """

    reason: str
    bytes_per_token: int = 0


def how_to_generate(model: PreTrainedModel, reading: Reading) -> Refilling:
    """Compare sequences that are begun, continued and moved in a `SlotCache` with the model's own forward pass.

    Args:
        reading: how the model is read; one that cannot be packed cannot be refilled.
    """
    if not reading.packs:
        return Refilling(reading.reason)
    if reading.together is not None:
        return Refilling("a long sequence would change the rotary embedding of the others")
    try:
        with torch.inference_mode(), without_router_logits(model):
            return _compared(model, reading)
    except FAILURES as error:
        return Refilling(reason_of(error))


@cache
def tell(name: str, reason: str) -> None:
    """Report, once per process, that a model generates in fixed batches.

    Args:
        name: the model's class.
    """
    print(f"{name} generates in fixed batches, which are not refilled: {reason}; this takes longer", file=sys.stderr)


def _compared(model: PreTrainedModel, reading: Reading) -> Refilling:
    long, short, other = (tuple(tokens) for tokens in some_tokens(model, (ROOM - 2, 4, 5)))
    sharing = long[:7] + other  # begins like the long one
    cache = SlotCache(4, ROOM)
    found: list[torch.Tensor] = []

    def step(*entries: Stretch) -> None:
        found.extend(read(model, cache, plan(entries, model.device), reading))

    with attend_cached(model):
        step(Stretch(1, 0, long[:-2]), Stretch(2, 0, short[:-2]))
        cache.put(3, cache.take(1, 7))
        step(Stretch(1, ROOM - 4, long[-2:-1]), Stretch(2, 2, short[2:3]), Stretch(3, 7, other[:-1]))
        for slot, length in ((1, ROOM - 3), (2, 3), (3, 11)):
            cache.move(slot, slot - 1, length)
        step(Stretch(0, ROOM - 3, long[-1:]), Stretch(1, 3, short[3:]), Stretch(2, 11, sharing[11:]))
    lengths = [(long, -2), (short, -2), (long, -1), (short, -1), (sharing, -1), (long, None), (short, None)]
    expected = [_own(model, tokens[:stop]) for tokens, stop in [*lengths, (sharing, None)]]
    values, wanted = (torch.stack(each).double().log_softmax(-1) for each in (found, expected))
    difference = (values - wanted).square().mean().sqrt().item()
    if not difference <= TOLERANCE.get(model.dtype, TOLERANCE[torch.float32]):
        return Refilling(f"its log-probabilities would differ by {difference:.2g} per token")
    return Refilling("", cache.bytes_per_token)


def _own(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Return the (V,) logits after the tokens, by the model's own forward pass without a cache."""
    return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1]
