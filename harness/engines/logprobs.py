"""Log-probabilities of completions: the one implementation that scoring and training share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from harness.engines.base import TokenIds


@dataclass(frozen=True)
class PaddedBatch:
    """Sequences padded on the right.

    input_ids: (n, T) prompt and completion, then padding.
    predicts: (n, T) True where the next token is a completion token.
    tokens: number of tokens that are not padding.
    """

    input_ids: torch.Tensor
    predicts: torch.Tensor
    tokens: int

    @property
    def padding(self) -> int:
        return self.input_ids.numel() - self.tokens


def pad_batch(pairs: Sequence[tuple[TokenIds, TokenIds]], pad_token_id: int) -> PaddedBatch:
    """A batch of (prompt, completion) pairs, none of them empty."""
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    rows = [[*prompt, *completion] for prompt, completion in pairs]
    input_ids = torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])
    starts = torch.tensor([len(prompt) - 1 for prompt, _ in pairs])[:, None]
    ends = torch.tensor([len(row) - 1 for row in rows])[:, None]
    if (starts < 0).any() or (starts >= ends).any():
        raise ValueError("a sequence needs at least one prompt token and one completion token")
    position = torch.arange(longest)
    return PaddedBatch(input_ids, (starts <= position) & (position < ends), sum(map(len, rows)))


def sequence_logprobs(
    model: torch.nn.Module, input_ids: torch.Tensor, predicts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of completions, with gradients unless these are switched off outside.

    Args:
        model: a causal language model of transformers, or its wrapper for distributed training.
        input_ids, predicts: as in `PaddedBatch`, on the model's device.

    Returns:
        (n,) sums over the completion tokens in nats, float32, and (n,) numbers of completion tokens.
    """
    # Padding stands on the right, where a causal model never looks: leaving the attention mask out changes nothing and
    # lets the fast causal kernels work.
    with _head_reads_only(model, predicts):
        logits = model(input_ids=input_ids, use_cache=False).logits
    targets = input_ids.roll(-1, dims=1)[predicts]
    logprobs = -F.cross_entropy(logits.float(), targets, reduction="none")
    sums = logprobs.new_zeros(predicts.shape).masked_scatter(predicts, logprobs).sum(dim=1)
    return sums, predicts.sum(dim=1)


@contextmanager
def _head_reads_only(model: torch.nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Inside, the LM head gets the hidden states at `positions` only, and the model's logits are (positions, V).

    Logits of prompts and padding would be most of the memory. The model's own forward pass still does the rest, so
    soft-capping and scaling of logits are respected, and wrappers for distributed training see an ordinary call.
    """
    rows = positions.flatten().nonzero().squeeze(1)

    def select(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, rows), *inputs[1:])

    head = getattr(model, "module", model).get_output_embeddings()
    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
