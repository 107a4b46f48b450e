"""The FLOPs that a model needs, measured on its own forward and backward pass without weights.

The model is built on torch's meta device, where tensors have shapes and no values. The formulas of torch's flop counter
are summed over its matrix products and convolutions, for sequences of several lengths and numbers of logits. FLOPs are
linear in positions, pairs of attention, logits and sequences, which gives the rates (`harness.work.Rates`); another
length checks them. Nothing here depends on an architecture. Elementwise operations do not count.

Masked pairs of attention are computed while counting (n^2 for n positions) but not charged.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, shape_wrapper
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engines.loading import load_errors, read_config
from harness.errors import UserError
from harness.work import Needed, Rates

UNIT = 64  # positions; sequences are multiples of it, because linear attention is computed in chunks of this size
CHUNKS = ("chunk_size", "mamba_chunk_size")  # configuration fields that give longer chunks
SHAPES = ((1, 1), (2, 1), (4, 1), (1, 9))  # units and logits of the sequences that the rates are fitted to
CHECK = (3, 5)  # and of the one that they are checked on
APART = 0.01  # largest relative difference there
LARGEST = 2e9  # parameters of a model that is built with values if shapes are not enough
FAR = 2**22 - 1  # a position beyond any window
ATTENTION = "harness_counted"
_KNOWN: dict[tuple[str, str], Needed] = {}  # by configuration and adapters
NO_SIZES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError, NotImplementedError)


class NotCounted(UserError):
    """A model whose FLOPs cannot be counted."""


def of_model(model: PreTrainedModel, adapters: Any = None) -> Needed:
    """Return the FLOPs of a loaded model.

    Args:
        adapters: a LoraConfig of peft if only adapters are trained.

    Raises:
        NotCounted: when its FLOPs do not follow from its configuration.
    """
    return _measured(
        _CountedModel(type(model)._from_config, copy.deepcopy(model.config), type(model).__name__), adapters
    )


def of_folder(folder: Path, adapters: Any = None, trust_remote_code: bool = False) -> Needed:
    """Return the FLOPs of the model in a folder, from its config.json alone (see `of_model`).

    Raises:
        UserError: when config.json cannot be read, or describes another kind of model.
        NotCounted: see `of_model`.
    """
    with load_errors(str(folder), trust_remote_code):
        config = read_config(AutoModelForCausalLM, str(folder), trust_remote_code)
    return of_config(config, adapters, trust_remote_code)


def of_config(config: PreTrainedConfig, adapters: Any = None, trust_remote_code: bool = False) -> Needed:
    """Return the FLOPs of a causal language model with this configuration (see `of_model`)."""

    def build(config: PreTrainedConfig, **more: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **more)

    return _measured(_CountedModel(build, copy.deepcopy(config), config.model_type), adapters)


class _CountedModel:
    """What is counted: how a model is built, from which configuration, and its name."""

    def __init__(self, build: Callable[..., PreTrainedModel], config: PreTrainedConfig, name: str) -> None:
        self._build, self._config, self.name = build, config, name
        vars(config).pop("quantization_config", None)  # weights in fewer bits need as many FLOPs
        sizes = {key: value for key, value in config.to_dict().items() if key not in NO_SIZES}
        self.key = json.dumps([name, sizes], sort_keys=True, default=str)

    @property
    def unit(self) -> int:
        text = self._config.get_text_config()
        return max([UNIT, *(size for name in CHUNKS if isinstance(size := getattr(text, name, None), int))])

    def build(self, device: str, attention: str, adapters: Any) -> torch.nn.Module:
        config = copy.deepcopy(self._config)
        with torch.device(device), no_init_weights() if device == "meta" else nullcontext():
            model = self._build(config, attn_implementation="eager").float().eval()
        if model._can_set_experts_implementation():
            model.set_experts_implementation("batched_mm")  # the others need the router's values
        if attention != "eager":
            model.set_attn_implementation(attention)
        if adapters is not None:
            from peft import get_peft_model

            with torch.device(device):
                model = get_peft_model(model, copy.deepcopy(adapters))
        return model


def _measured(counted: _CountedModel, adapters: Any) -> Needed:
    key = counted.key, repr(adapters)
    if key not in _KNOWN:
        _KNOWN[key] = _count_ways(counted, adapters)
    return _KNOWN[key]


def _count_ways(counted: _CountedModel, adapters: Any) -> Needed:
    reasons = []
    for device, attention in (("meta", ATTENTION), ("meta", "eager"), ("cpu", "eager")):
        try:
            if device == "cpu":
                _check_size(counted.build("meta", attention, None))
            return _fitted(counted.build(device, attention, adapters), counted.unit)
        except FAILURES as error:
            reasons.append(_first_line(error))
    raise NotCounted(
        f"the FLOPs of {counted.name} cannot be counted ({reasons[0]}): give --ledger nominal, which counts parameters"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _check_size(model: PreTrainedModel) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > LARGEST:
        raise ValueError(f"it must be built with values, and {parameters:,} parameters are too many for that")


def _fitted(model: torch.nn.Module, unit: int) -> Needed:
    """Fit the rates of a model.

    Raises:
        ValueError: when its FLOPs are not linear in positions, pairs of attention and logits.
    """

    def features(units: int, logits: int) -> list[float]:
        length = units * unit
        return [length, length**2, logits, 1]

    windows = _windows(model)
    counts = torch.tensor([_count(model, units * unit, logits) for units, logits in SHAPES]).double()
    rates = torch.linalg.solve(torch.tensor([features(*shape) for shape in SHAPES]).double(), counts)
    counted = torch.tensor(_count(model, CHECK[0] * unit, CHECK[1])).double()
    predicted = torch.tensor(features(*CHECK)).double() @ rates
    if ((predicted - counted).abs() > APART * counted).any():
        raise ValueError("its FLOPs are not linear in positions, pairs of attention and logits")

    def named(position: float, pair: float, head: float, start: float) -> Rates:
        attention = {window: share * pair for window, share in windows.items()} if pair > 0.5 else {}
        return Rates(position, head, attention, start)

    return Needed(*(named(*column) for column in rates.T.tolist()))


def _count(model: torch.nn.Module, length: int, logits: int, backward: bool = True) -> tuple[int, int]:
    """Return the FLOPs of the forward pass of one sequence, and of the forward and backward pass.

    Args:
        logits: positions that the head sees, if the model names its head.
    """
    device = next(model.parameters()).device
    ids = torch.arange(length, device=device)[None] % 7
    with _head_of(model, logits), torch.set_grad_enabled(backward), _Counter() as counter:
        output = model(input_ids=ids, use_cache=False).logits
        forward = counter.flops
        if backward:
            output.sum().backward()
    model.zero_grad()
    return forward, counter.flops


class _Counter(TorchDispatchMode):
    """Counts FLOPs like torch's FlopCounterMode, without its record of modules, which takes most of its time.

    A model that reads the value of a meta tensor gets True or 1. Models ask whether a mask masks nothing, whether
    sequences are packed, or how long the longest is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        result = func(*args, **kwargs)
        if formula := FORMULAS.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


@shape_wrapper  # type: ignore[untyped-decorator]  # torch is Any to mypy here
def _convolution_backward(grad: Any, inputs: Any, weight: Any, *args: Any, **_: Any) -> int:
    """Count as many FLOPs as forward for each gradient needed. (torch 2.13 counts a depthwise convolution as full.)"""
    transposed, wanted = args[4], args[7]
    return conv_flop_count(inputs, weight, grad, transposed=transposed) * sum(wanted[:2])


@contextmanager
def _head_of(model: torch.nn.Module, logits: int) -> Iterator[None]:
    """Inside, the LM head sees only the first `logits` positions."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., :logits, :], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


class _Mask:
    """Stands in for an attention mask, which layers only pass on. window: how far back it sees."""

    def __init__(self, sees: Callable[..., Any]) -> None:
        self._sees = sees

    @property
    def window(self) -> int | None:
        """None if there is no limit; the length of a chunk for chunked attention."""
        near, far = 0, FAR
        if self._reaches(far):
            return None
        while far - near > 1:
            middle = (near + far) // 2
            near, far = (middle, far) if self._reaches(middle) else (near, middle)
        return far

    def _reaches(self, distance: int) -> bool:
        none, query = torch.tensor(0, device="cpu"), torch.tensor(FAR, device="cpu")
        return bool(self._sees(none, none, query, query - distance))


def _windows(model: torch.nn.Module) -> dict[int | None, float]:
    """Return each window's share of the attention products; {None: 1.0} if the attention cannot be replaced."""
    products: Counter[int | None] = Counter()

    def attend(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        *args: Any,
        sliding_window: int | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        window = sliding_window or (attention_mask.window if isinstance(attention_mask, _Mask) else None)
        products[window] += query.shape[1] * (query.shape[-1] + value.shape[-1])
        return _attend(module, query, key, value)

    if model.config._attn_implementation == ATTENTION:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
        try:
            _count(model, UNIT, 1, backward=False)
        finally:
            ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
    whole = sum(products.values())
    return {window: share / whole for window, share in products.items()} if whole else {None: 1.0}


def _attend(_module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
    """Compute only the products of attention: (B, H, L, D) queries, (B, H', L, D) keys, (B, H', L, D') values."""
    keys, values = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    return (query @ keys.transpose(-1, -2) @ values).transpose(1, 2), None


def _mask(*_args: Any, mask_function: Callable[..., Any], **_other: Any) -> _Mask:
    """Return a mask in the form that transformers asks for."""
    return _Mask(mask_function)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _mask)
