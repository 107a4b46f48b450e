"""Whether what different prompts begin with can be read once, by comparison with the model's own forward pass."""

import sys
from functools import cache

import torch
from transformers import PreTrainedModel

from harness.engines.logprobs import (
    Reading,
    attend_packed,
    packed_forward,
    padded_forward,
    target_logprobs,
    without_router_logits,
)
from harness.engines.packing import pack
from harness.engines.reading import FAILURES, reason_of, some_tokens, tolerance
from harness.engines.trees import Forest


def why_not_shared(model: PreTrainedModel, reading: Reading) -> str:
    """Compare a tree of a few short sequences (`harness.engines.trees`) with each of them by itself.

    Args:
        reading: how the model is read; one that cannot be packed is not read in trees.

    Returns:
        Why trees would be wrong, "" if they are right.
    """
    if not reading.packs:
        return reading.reason or "it is not read packed"
    if reading.together is not None:
        return "a long sequence would change the rotary embedding of the others"
    try:
        with torch.inference_mode(), without_router_logits(model):
            return _compared(model, reading)
    except FAILURES as error:
        return reason_of(error)


@cache
def tell(name: str, reason: str) -> None:
    """Report, once per process, that a packed model is not read in trees.

    Args:
        name: the model's class.
    """
    print(
        f"{name} reads what different prompts share once for each of them: {reason}; this takes longer", file=sys.stderr
    )


def _compared(model: PreTrainedModel, reading: Reading) -> str:
    prompt, first, second, other = some_tokens(model, (9, 4, 5, 3))
    pairs = [(prompt, first), (prompt, first[:2] + other), (prompt[:6] + second, other), (prompt, other[:1])]
    pairs += [(prompt, other[1:2]), (second, first)]
    forest = Forest(pairs, least=1)
    forward = packed_forward(forest.pack(forest.order).to(model.device), None)
    with attend_packed(model, reading):
        values = target_logprobs(model, forward, reading.head)[0][forward.entries]
    alone = [padded_forward(pack([pairs[number]]).to(model.device), None) for number in forest.order]
    expected = torch.cat([target_logprobs(model, each, "whole")[0] for each in alone])
    difference = (values - expected).double().square().mean().sqrt().item()
    return "" if difference <= tolerance(model) else f"its log-probabilities would differ by {difference:.2g} per token"
