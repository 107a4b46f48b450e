"""Log-probabilities of target tokens from hidden states, in chunks: the logits of a batch never exist at once."""

import torch

CHUNK_BYTES = 64 << 20  # of the logits of one chunk, in float32


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """log softmax(hidden @ weight.T + bias) at the targets; gradients flow to hidden, weight and bias.

    Args:
        hidden: (n, d). weight: (V, d). bias: (V,) or None. targets: (n,).

    Returns:
        (n,) in nats, float32 (float64 where hidden is).
    """
    if torch.is_autocast_enabled(hidden.device.type):  # the way back is outside autocast: both are to see one type
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = (None if each is None else each.to(dtype) for each in (hidden, weight, bias))
    return _TokenLogProbs.apply(hidden, weight, bias, targets)


def _chunks(count: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


class _TokenLogProbs(torch.autograd.Function):
    """Keeps one number a token between the passes and computes the logits of a chunk again on the way back."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        for chunk in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[chunk], weight, bias)
            normalizers[chunk] = logits.logsumexp(1)
            logprobs[chunk] = logits.gather(1, targets[chunk, None]).squeeze(1) - normalizers[chunk]
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        for chunk in _chunks(len(hidden), len(weight)):
            # d log p(target) / d logits = onehot(target) - p
            slope = _logits(hidden[chunk], weight, bias).sub_(normalizers[chunk, None]).exp_()
            slope.mul_(-grad[chunk, None])
            slope.scatter_add_(1, targets[chunk, None], grad[chunk, None])
            slope = slope.to(weight.dtype)
            if wants_hidden:
                grad_hidden[chunk] = (slope @ weight).to(hidden.dtype)
            if wants_weight:
                grad_weight.addmm_(slope.T, hidden[chunk].to(weight.dtype))
            if wants_bias:
                grad_bias += slope.sum(0)
        return grad_hidden, grad_weight, grad_bias, None
