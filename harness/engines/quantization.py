"""Weights in 4 bits (bitsandbytes), which stay as they are while adapters on them are trained (QLoRA).

Whether they can be used is known before a model is loaded: from the configuration, and from a layer that is tried on
the device.
"""

import copy
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from harness.errors import UserError

FOUR_BITS = "bitsandbytes in 4 bits"
WAY_OUT = "or leave quantization_config out"
TRIED, CLOSE = 128, 1e-2  # width of the layer that is tried, and its largest relative error (16 bits round by 2^-8)


def four_bits(given: Any) -> BitsAndBytesConfig:
    """The configuration of weights in 4 bits that somebody gave, as an object of transformers or a mapping.

    Raises:
        UserError: for any other quantization, by name.
    """
    settings = given if isinstance(given, dict) else given.to_dict() if hasattr(given, "to_dict") else {}
    found = _named(settings) or type(given).__name__
    if found != FOUR_BITS:
        raise UserError(
            f"quantization_config asks for {found}, and only {FOUR_BITS} can be trained on: give "
            f"BitsAndBytesConfig(load_in_4bit=True), {WAY_OUT}"
        )
    public = {name: value for name, value in settings.items() if name != "quant_method" and name[0] != "_"}
    try:
        return BitsAndBytesConfig(**public)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"quantization_config cannot be used ({error}): correct it, {WAY_OUT}") from None


def quantization_of(model: torch.nn.Module) -> str | None:
    """The name of a loaded model's quantization, FOUR_BITS for that which can be trained on; None for plain weights."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return None
    config = quantizer.quantization_config
    return _named(config.to_dict()) or type(config).__name__


def in_four_bits(model: torch.nn.Module) -> bool:
    return quantization_of(model) == FOUR_BITS


def computed_in(model: PreTrainedModel) -> torch.dtype:
    """The numbers that a model's matrix products are computed in: of weights in 4 bits, not those of other weights."""
    return model.hf_quantizer.quantization_config.bnb_4bit_compute_dtype if in_four_bits(model) else model.dtype


def check_four_bits(model: PreTrainedModel, name: str) -> None:
    """
    Raises:
        UserError: for weights that are not in 4 bits.
    """
    if not in_four_bits(model):
        raise UserError(f"{name} has no weights of {FOUR_BITS}")


def check_possible(config: BitsAndBytesConfig, device: str) -> None:
    """Compute with a small layer in 4 bits, forwards and backwards.

    Raises:
        UserError: when bitsandbytes is missing, or does not compute right on the device.
    """
    try:
        installed = version("bitsandbytes")
    except PackageNotFoundError:
        raise UserError(
            "weights in 4 bits need bitsandbytes, which is not installed: pip install bitsandbytes (the extra "
            f"quantization), {WAY_OUT}"
        ) from None
    try:
        error = _error_of_layer(config, device)
    except Exception as failure:  # whatever foreign kernels raise where they are not supported
        reason = " ".join(str(failure).split()) or type(failure).__name__
    else:
        if error <= CLOSE:
            return
        reason = f"results are wrong by {error:.2g}"
    raise UserError(
        f"bitsandbytes {installed} does not compute in 4 bits on {device} here ({reason:.300}): use a device that it "
        f"supports, {WAY_OUT}"
    )


def _error_of_layer(config: BitsAndBytesConfig, device: str) -> float:
    """The relative error of a layer's outputs, with gradients and without, and of its gradients, against its weights as
    plain numbers."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(
        TRIED,
        TRIED,
        bias=False,
        compute_dtype=config.bnb_4bit_compute_dtype,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
        quant_storage=config.bnb_4bit_quant_storage,
    ).to(device)
    keep_layout(layer)
    inputs = torch.linspace(-1, 1, 4 * TRIED, device=device).reshape(4, TRIED).requires_grad_()
    outputs = layer(inputs)
    (gradient,) = torch.autograd.grad(outputs.square().sum() / 2, inputs)
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    expected = inputs.detach() @ weight.T
    with torch.no_grad():
        several, one = layer.eval()(inputs), layer(inputs[:1])
    pairs = (
        *((outputs.detach(), expected), (several, expected), (one, expected[:1])),
        (gradient, expected @ weight),
    )
    return max(((got - right).norm() / right.norm()).item() for got, right in pairs)


def _named(settings: dict[str, Any]) -> str | None:
    """The quantization that settings of transformers describe."""
    given = {"load_in_4bit", "load_in_8bit"} & set(settings)
    method = settings.get("quant_method") or ("bitsandbytes" if given else "")
    name = str(getattr(method, "value", method))
    if name.partition("_")[0] != "bitsandbytes":
        return name or None
    bits = [number for number in (4, 8) if settings.get(f"load_in_{number}bit")]
    return f"bitsandbytes in {bits[0]} bits" if bits else "bitsandbytes without load_in_4bit"


def keep_layout(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from packing weights for some CPUs in the first pass without gradients, and undo it.

    It rounds their scales in place, and no gradient flows through a packed layer afterwards.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.state_dict()  # unpacks


def elements(parameter: torch.Tensor) -> int:
    """How many weights a parameter holds: several of 4 bits share a number."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else prod(state.shape)


def copied(model: torch.nn.Module) -> Any:
    """A copy of a model that shares its weights in 4 bits, which nothing changes."""
    shared = {id(weight): weight for weight in model.parameters() if getattr(weight, "quant_state", None) is not None}
    return copy.deepcopy(model, shared)
