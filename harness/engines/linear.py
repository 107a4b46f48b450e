"""Linear layers in float32 on CPUs where oneDNN is faster than MKL.

PyTorch multiplies float32 matrices by MKL, which on processors of other makers than Intel does without AVX-512: an EPYC
that has it computes 105 GFLOP/s on a core by MKL and 240 by oneDNN. Results differ by rounding. The operator is the one
that torch.compile puts in place of linear layers; it is not public, so it is tried before it is used.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from harness.models import processor

LEAST_WEIGHTS = 100_000  # elements of a matrix: smaller ones, like all of the embedded model's, gain little
LEAST_PRODUCTS = 2_000_000  # rows times elements: below, oneDNN takes longer to begin than it saves
LEAST_PACKED = 8  # rows
CLOSE = 1e-5  # relative error of a product of 64 by 256 elements
Multiply = Callable[..., torch.Tensor]


def multiplication(weight: torch.Tensor, rows: int) -> Multiply:
    """The function that multiplies `rows` rows by matrices of the size and type of this one, without gradients. It is
    called as torch.nn.functional.linear."""
    if _is_large(weight) and rows * weight.numel() >= LEAST_PRODUCTS and onednn_is_faster():
        return _onednn
    return torch.nn.functional.linear


def use_fast_products(model: torch.nn.Module) -> None:
    """Give the linear layers of a model the class `Linear`, where that makes a difference on this machine."""
    if onednn_is_faster():
        for module in model.modules():
            if type(module) is torch.nn.Linear:
                module.__class__ = Linear


class Linear(torch.nn.Linear):
    """torch.nn.Linear with the faster of two float32 multiplications.

    packed: the weights in the order in which oneDNN reads them; None outside of `packed_weights`.
    """

    packed: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        cast = torch.is_autocast_enabled("cpu") or inputs.dtype != self.weight.dtype
        if cast or multiplication(self.weight, prod(inputs.shape[:-1])) is not _onednn:
            return super().forward(inputs)
        if torch.is_grad_enabled() and any(each.requires_grad for each in (inputs, *self.parameters())):
            return _Product.apply(inputs, self.weight, self.bias)
        return _onednn(inputs, self.weight if self.packed is None else self.packed, self.bias)


@contextmanager
def packed_weights(model: torch.nn.Module, rows: int, free: int) -> Iterator[None]:
    """Inside, the linear layers that oneDNN computes hold their weights a second time, in the order in which it reads
    them: else each call reorders them, which takes a third of the time with 16 rows. The weights must not change
    inside, and gradients do not use the copies.

    Args:
        rows: of most calls.
        free: bytes; without room for two copies, and with few rows, nothing is packed.
    """
    layers = [each for each in model.modules() if isinstance(each, Linear) and _is_large(each.weight)]
    size = sum(each.weight.nbytes for each in layers)
    chosen = layers if rows >= LEAST_PACKED and 2 * size <= free else []
    try:
        for layer in chosen:
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        yield
    finally:
        for layer in chosen:
            layer.packed = None


def _is_large(weight: torch.Tensor) -> bool:
    return weight.numel() >= LEAST_WEIGHTS and weight.dtype == torch.float32 and weight.device.type == "cpu"


class _Product(torch.autograd.Function):
    """inputs @ weight.T + bias."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        return _onednn(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        for_inputs, for_weight, for_bias = ctx.needs_input_grad
        by_row = grad.reshape(-1, grad.shape[-1])
        return (
            _onednn(by_row, weight.T).view_as(inputs) if for_inputs else None,
            _onednn(by_row.T, inputs.reshape(-1, inputs.shape[-1]).T) if for_weight else None,
            by_row.sum(0) if for_bias else None,
        )


def _onednn(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


@cache
def onednn_is_faster() -> bool:
    """Whether this CPU has AVX-512 and another maker than Intel, and the operator gives the right product."""
    maker = processor.fields().get("vendor_id", "GenuineIntel")
    other = platform.machine() == "x86_64" and maker != "GenuineIntel"
    return other and torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _is_right()


def _is_right() -> bool:
    inputs, weight = torch.linspace(-1, 1, 64 * 256).view(64, 256), torch.linspace(1, 3, 32 * 256).view(32, 256).sin()
    try:
        found = _onednn(inputs, weight)
    except (AttributeError, RuntimeError):  # a PyTorch without it
        return False
    exact = inputs.double() @ weight.double().T
    return bool((found - exact).abs().max() <= CLOSE * exact.abs().max())


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)  # type: ignore[untyped-decorator]
    def _flops(inputs: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * prod(inputs) * weight[0]
