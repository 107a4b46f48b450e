"""Log-probabilities of target tokens from hidden states, block by block: a batch's logits never exist all at once."""

from collections.abc import Iterator
from typing import Any

import torch

from harness.engines.linear import multiplication

ROWS = 4096  # most tokens per block
CPU_BLOCK, GPU_BLOCK = 8 << 20, 128 << 20  # bytes of a block's float32 logits: a CPU's block should stay in its cache


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    after: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log softmax(hidden @ weight.T + bias) at the targets; gradients flow to hidden, weight and bias.

    Args:
        hidden: (r, d). weight: (V, d). bias: (V,) or None. targets: (n,).
        after: (n,) which hidden state each target comes after, without gradients; None if there is one for each.

    Returns:
        (n,) in nats, float32 (float64 if hidden is).
    """
    if torch.is_autocast_enabled(hidden.device.type):  # backward runs outside autocast: both passes need one dtype
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _TokenLogProbs.apply(hidden, weight, bias, targets, after)


def _row_blocks(count: int) -> list[slice]:
    return [slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]


def _column_blocks(rows: int, weight: torch.Tensor) -> Iterator[slice]:
    """Yield the parts of the vocabulary whose logits for `rows` tokens fill a block."""
    size = max(1, (CPU_BLOCK if weight.device.type == "cpu" else GPU_BLOCK) // (4 * rows))
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, columns: slice) -> torch.Tensor:
    multiply = multiplication(weight, len(hidden))
    logits = multiply(hidden, weight[columns], None if bias is None else bias[columns])
    return logits if logits.dtype == torch.float64 else logits.float()


class _TokenLogProbs(torch.autograd.Function):
    """Keeps one number per token between the passes, its normalizer, and recomputes the logits in the backward pass.

    With p = softmax(logits), d log p(target) / d logits = onehot(target) - p; the two parts are summed separately.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        after: torch.Tensor | None,
    ) -> torch.Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        normalizers = torch.full((len(hidden),), float("-inf"), dtype=dtype, device=hidden.device)
        for rows in _row_blocks(len(hidden)):
            for columns in _column_blocks(len(hidden[rows]), weight):
                block = _logits(hidden[rows], weight, bias, columns).logsumexp(1)
                normalizers[rows] = torch.logaddexp(normalizers[rows], block)
        if after is not None:
            hidden, normalizers = hidden[after], normalizers[after]
        chosen = (hidden.to(dtype) * weight[targets].to(dtype)).sum(1)
        if bias is not None:
            chosen += bias[targets].to(dtype)
        chosen = chosen.to(hidden.dtype)  # rounded like the logits, so that rounding errors cancel
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        return chosen - normalizers

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        for_hidden, for_weight, for_bias, *_ = ctx.needs_input_grad
        scaled = (hidden.to(grad.dtype) * grad[:, None]).to(weight.dtype)
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype) if for_hidden else None
        grad_weight = torch.empty_like(weight) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=grad.dtype) if for_bias else None
        for number, rows in enumerate(_row_blocks(len(hidden))):
            for columns in _column_blocks(len(hidden[rows]), weight):
                exact = _logits(hidden[rows], weight, bias, columns).sub_(normalizers[rows, None]).exp_()
                likely = exact.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += multiplication(weight, len(likely))(likely, weight[columns].T)
                if grad_weight is not None:
                    torch.addmm(
                        grad_weight[columns],
                        likely.T,
                        scaled[rows],
                        beta=float(number > 0),
                        alpha=-1,
                        out=grad_weight[columns],
                    )
                if grad_bias is not None:
                    grad_bias[columns] -= grad[rows] @ exact
        if grad_hidden is not None:
            grad_hidden = ((weight[targets].to(grad.dtype) - grad_hidden) * grad[:, None]).to(hidden.dtype)
        if grad_weight is not None:
            grad_weight.index_add_(0, targets, scaled)
        if grad_bias is not None:
            grad_bias = grad_bias.index_add_(0, targets, grad).to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None
