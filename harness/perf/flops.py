"""FLOPs: those that torch counts, and the least that answers and log-probabilities need."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from harness.engines.prefixes import Prefix, shared_prefixes
from harness.types import TokenIds
from harness.work import Cost, Work

ATEN = torch.ops.aten
CPU_ATTENTION = {  # which torch 2.13's counter leaves out
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    ),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, query, key, value, *_, **__: (
        sdpa_backward_flop_count(grad, query, key, value)
    ),
}


def counted() -> FlopCounterMode:
    """Return torch's counter of the FLOPs of matrix products, those of masked pairs of attention included."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


def least(cost: Cost, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], sampled: bool = False) -> float:
    """Return the FLOPs of reading what sequences begin with once, of nothing masked, and of logits where a completion
    token follows.

    Args:
        sampled: the completions are sampled, each by itself; only their prompts share what they begin with.
    """
    spans: Counter[tuple[float, float]] = Counter()
    known: set[Prefix] = set()
    logits = 0
    pairs = list(zip(prompts, completions, strict=True))
    read = [prompt if sampled else prompt + completion[:-1] for prompt, completion in pairs]
    for (prompt, completion), tokens, prefix in zip(pairs, read, shared_prefixes(read, 1), strict=True):
        chain = prefix.chain if prefix else []
        start = 0
        for each in reversed(chain):
            if each not in known:
                spans[start, each.length] += 1
                known.add(each)
                logits += max(0, each.length - max(start, len(prompt) - 1)) * (not sampled)
            start = each.length
        spans[start, len(tokens)] += 1
        logits += len(completion) if sampled else len(tokens) - max(start, len(prompt) - 1)
        if sampled:
            spans[len(prompt), len(prompt) + len(completion) - 1] += 1
    return cost.forward(Work(spans=dict(spans), logits=logits))
