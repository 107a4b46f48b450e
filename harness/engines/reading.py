"""How log-probabilities can be read from a model, chosen by comparison with the model's own forward pass.

A few short sequences are read one by one, by the model's own forward pass alone, and then packed. A model is packed
only if both agree. What short sequences do not show is checked in other ways: an attention window or chunk that is
longer than they are, in the rule by which the model makes its masks; what only attention uses, such as sinks, in the
arguments that layers pass to attention (`harness.engines.packing.check_arguments`); a rotary embedding that depends on
the longest sequence of a batch, in the configuration.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engines import memory
from harness.engines.linear import Linear
from harness.engines.logprobs import (
    Forward,
    Reading,
    attend_packed,
    logprobs_and_balance,
    packed_forward,
    padded_forward,
    target_logprobs,
    without_router_logits,
)
from harness.engines.packing import NotPacked, PackedBatch, pack, packed_attention
from harness.engines.quantization import computed_in
from harness.errors import UserError
from harness.types import TokenIds

Pair = tuple[TokenIds, TokenIds]  # prompt, completion
CHECKED = "harness_packed_checked"  # attention that checks the rules of masks
LENGTHS = ((7, (5, 3)), (2, (6,)))  # tokens of each compared prompt, and of its completions
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.15}
# nats per token, root mean square: a correct reading differs by rounding of logits, 2^-11 or 2^-8 of them in 16 bits
LENGTH_DEPENDENT = ("dynamic", "longrope")  # kinds of rotary embedding
FAR = 2**22  # tokens, more than any context
SPOTS = {*range(17), *(2**power + off for power in range(5, 22) for off in (-1, 0, 1))}  # positions to try rules at
LAYERS = {"full_attention", "sliding_attention", "attention"}  # kinds of layers that packed attention supports
FAILURES = (*(TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError), NotPacked)


def how_to_balance(model: PreTrainedModel, reading: Reading, name: str) -> Reading:
    """Choose how to read a mixture of experts whose load-balancing loss is trained on: as given if that gives the
    model's own loss for a padded batch, else padded.

    Args:
        name: of the model, for error messages.

    Raises:
        UserError: when the model has no such loss.
    """
    pairs = _pairs(model)
    batch = pack(pairs).to(model.device)
    weights = torch.ones(len(pairs), device=model.device)
    losses: list[Any] = []
    for way in (replace(reading, packs=False, pads=True), reading):
        try:
            with torch.no_grad(), attend_packed(model, way):
                losses.append(logprobs_and_balance(model, batch, way, weights)[1])
        except FAILURES as error:
            reason_of(error)
            losses.append(None)
    if not any(isinstance(loss, torch.Tensor) for loss in losses):
        raise UserError(
            f"router_aux_loss_coef is set, but {name} ({type(model).__name__}) has no load-balancing loss: it is not a "
            "mixture of experts, or balances them in another way; set router_aux_loss_coef=0"
        )
    padded, given = losses
    if isinstance(given, torch.Tensor) and (not reading.packs or torch.allclose(padded, given, rtol=1e-2)):
        return reading
    return replace(reading, packs=False, pads=True, reason="its load-balancing loss would differ")


class Selects(NotPacked):
    """The model's layers may attend to selected tokens, and the selection may depend on the whole batch."""


def how_to_read(model: PreTrainedModel, attention: str = "sdpa") -> Reading:
    """Compare ways to read log-probabilities, cheapest first, with the model's own forward pass.

    Errors of the model's own forward pass are passed on.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), without_router_logits(model):
            return _compared(model, attention)
    finally:
        model.train(training)


@cache
def tell(name: str, reading: Reading) -> None:
    """Report, once per process, that a model is not packed.

    Args:
        name: the model's class.
    """
    if reading.packs:
        return
    way = "in padded batches" if reading.pads else "one sequence at a time"
    print(f"{name} is read {way}, not packed: {reading.reason}; scoring and training take longer", file=sys.stderr)


def _compared(model: PreTrainedModel, attention: str) -> Reading:
    pairs = _pairs(model)
    whole = Reading(packs=False, head="whole", attention=attention, together=_together(model))
    heads, first = _heads(model, pairs[0], whole)
    expected = torch.cat([first, *(_values(model, [pair], whole) for pair in pairs[1:])])
    most = tolerance(model)

    def agrees(reading: Reading, count: int, expected: torch.Tensor) -> str:
        """Return why it does not agree, "" if it does."""
        try:
            with attend_packed(model, reading):
                values = _values(model, pairs[:count], reading)
        except FAILURES as error:
            return reason_of(error)
        if values.shape != expected.shape:
            return "it returns something other than logits"
        difference = (values - expected).double().square().mean().sqrt().item()
        return "" if difference <= most else f"its log-probabilities would differ by {difference:.2g} per token"

    selects, reason = _selecting(model), ""
    try:
        _check_rules(model, pairs[-1:])
    except Selects as error:
        selects = str(error)
    except FAILURES as error:
        reason = reason_of(error)
    barred = selects or reason
    for head in heads:
        reason = barred or agrees(replace(whole, packs=True, head=head), len(pairs), expected)
        if not reason:
            return replace(whole, packs=True, head=head)
        if head == "whole" or not agrees(replace(whole, head=head), 1, first):  # it is not the head that differs
            break
    padded = replace(whole, head=head, pads=True, reason=reason)
    return replace(padded, pads=not selects and not agrees(padded, len(pairs), expected))


def tolerance(model: PreTrainedModel) -> float:
    """How much log-probabilities of a token may differ (nats, root mean square) by rounding."""
    return max(TOLERANCE.get(dtype, TOLERANCE[torch.float32]) for dtype in (model.dtype, computed_in(model)))


def reason_of(error: Exception) -> str:
    """Return the reason for a message; running out of memory is raised again."""
    if isinstance(error, RuntimeError) and memory.shortage(error):
        raise error
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, NotPacked) else f"{type(error).__name__}: {text}"


def _heads(model: PreTrainedModel, pair: Pair, whole: Reading) -> tuple[list[str], torch.Tensor]:
    """Return the ways to use the model's head that may be right, and a sequence's values from its whole logits."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        return ["whole"], _values(model, [pair], whole)
    seen: list[torch.Tensor] = []
    handles = [
        head.register_forward_hook(lambda _head, _inputs, output: seen.append(output)),
        model.register_forward_hook(lambda _model, _inputs, output: seen.append(output.logits)),
    ]
    try:
        values = _values(model, [pair], whole)
    finally:
        for handle in handles:
            handle.remove()
    plain = type(head) in (torch.nn.Linear, Linear) and len(seen) == 2 and torch.equal(*seen)
    return [*(["scored"] if plain else []), "read", "whole"], values


def some_tokens(model: PreTrainedModel, lengths: Sequence[int]) -> list[TokenIds]:
    """Return ordinary tokens of a model, different in each of as many sequences as there are lengths."""
    text = model.config.get_text_config()
    configs = {id(config): config for config in (model.config, text)}.values()
    named = [value for config in configs for name, value in vars(config).items() if "token" in name]
    listed = [value if isinstance(value, list | tuple) else [value] for value in named]  # several tokens may end a text
    special = {token for tokens in listed for token in tokens if isinstance(token, int)}
    size = min(text.vocab_size, model.get_input_embeddings().weight.shape[0])
    ordinary = [token for token in range(min(size, 1000) // 2) if token not in special] or [0]
    draw = iter(range(10**6))
    return [tuple(ordinary[next(draw) * 37 % len(ordinary)] for _ in range(length)) for length in lengths]


def _pairs(model: PreTrainedModel) -> list[Pair]:
    """Return two prompts, each with completions of different lengths."""
    tokens = iter(some_tokens(model, [each for length, completions in LENGTHS for each in (length, *completions)]))
    pairs = []
    for _, completions in LENGTHS:
        prompt = next(tokens)
        pairs += [(prompt, next(tokens)) for _ in completions]
    return pairs


def _values(model: PreTrainedModel, pairs: list[Pair], reading: Reading) -> torch.Tensor:
    """Return the log-probabilities of all completion tokens, sequence by sequence."""
    batch = pack(pairs).to(model.device)
    forward = packed_forward(batch, None) if reading.packs else padded_forward(batch, None)
    return target_logprobs(model, forward, reading.head)[0]


def _selecting(model: PreTrainedModel) -> str:
    """Return what in the configuration shows that attention sees selected tokens only, or ""."""
    names = [name for name, value in vars(model.config.get_text_config()).items() if name.startswith("index") and value]
    return f"its attention selects tokens ({', '.join(sorted(names))})" if names else ""


def _check_rules(model: PreTrainedModel, pairs: list[Pair]) -> None:
    """Check that packed attention is the model's attention for sequences of any length.

    Raises:
        Selects: when attention may depend on the whole batch.
        NotPacked: when packed attention may differ, whatever short sequences show.
    """
    if not model._can_set_attn_implementation():
        raise NotPacked("its attention cannot be replaced")
    text = model.config.get_text_config()
    if odd := {*(getattr(text, "layer_types", None) or ())} - LAYERS:
        raise NotPacked(f"it has layers of type {', '.join(sorted(odd))}")
    calls = []

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
        if not isinstance(attention_mask, _Rule):
            raise NotPacked("its layers make their own attention masks")
        attention_mask.check(sliding_window)
        calls.append(module)
        return packed_attention(module, query, key, value, None, *args, sliding_window=sliding_window, **more)

    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(CHECKED, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(CHECKED, _rule)
    try:
        model.set_attn_implementation(CHECKED)
        target_logprobs(model, _alone(pack(pairs).to(model.device)), "whole")
    finally:
        model.set_attn_implementation(before)
    if len(calls) < getattr(text, "num_hidden_layers", 1):
        raise NotPacked("not all of its layers use attention to see other tokens")


def _alone(batch: PackedBatch) -> Forward:
    """Return the forward pass of one sequence that only its packed batch shows to be a single one."""
    return replace(padded_forward(batch, None), arguments={"input_ids": batch.input_ids, "packed": batch})


@dataclass(frozen=True)
class _Rule:
    """Stands in for a mask: which position sees which. A layer can pass it on to attention and nothing else.

    sees: transformers' mask function, (batch, head, query position, key position) -> bool.
    """

    sees: Callable[..., Any]

    def check(self, window: int | None) -> None:
        """Check that a position sees what is before it, within the window that is passed to attention.

        Raises:
            NotPacked: when it sees something else.
        """
        spots = torch.tensor(sorted({*SPOTS, *(range(max(0, window - 2), window + 3) if window else ())}))
        query, key, none = spots[:, None], spots[None, :], torch.tensor(0)
        wanted = (key <= query) & (query - key < (window or FAR))
        try:
            seen = torch.as_tensor(self.sees(none, none, query, key))
        except (IndexError, RuntimeError, TypeError) as error:
            raise NotPacked("its attention mask depends on more than positions") from error
        if not torch.equal(seen.expand_as(wanted), wanted):
            raise NotPacked("its attention sees tokens other than those before it within the declared window")

    def __getitem__(self, _places: Any) -> Any:
        raise Selects("its layers change their attention mask")

    def __getattr__(self, name: str) -> Any:  # whatever a layer does with a mask is caught
        return self[name]


def _rule(*_args: Any, mask_function: Callable[..., Any], **_other: Any) -> _Rule:
    """Return a mask in the form that transformers asks for."""
    return _Rule(mask_function)


def _together(model: PreTrainedModel) -> int | None:
    """Return the longest sequence that does not change the rotary embedding of others in its batch; None for any."""
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict) and kind.get("rope_type")]
    known = (getattr(text, name, None) for name in ("original_max_position_embeddings", "max_position_embeddings"))
    lengths = [
        kind.get("original_max_position_embeddings") or next(filter(None, known), None)
        for kind in kinds
        if kind["rope_type"] in LENGTH_DEPENDENT
    ]
    return min(filter(None, lengths), default=None)
