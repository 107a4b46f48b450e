"""Where the time of a step goes: operators of torch's profiler, sorted into parts and phases."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

FORWARD, REFERENCE, BACKWARD = "forward", "reference", "backward"  # names of the recorded ranges
PHASES = {FORWARD: "policy", REFERENCE: "reference", BACKWARD: "backward"}  # a forward without the reference in it
PARTS = ("linear layers", "attention", "LM head", "softmax over the vocabulary", "other")
MATRIX_PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_"}
ATTENTION = ("scaled_dot_product", "flash_attention", "aten::bmm", "aten::baddbmm")
TILE = 32_768  # columns of a larger vocabulary that TRL's fused LM head takes at a time


@contextmanager
def recorded() -> Iterator[profile]:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recording:
        yield recording


@contextmanager
def named(name: str, model: torch.nn.Module | None) -> Iterator[None]:
    """Inside, what the model's forward pass does is recorded under the name."""
    if model is None:
        yield
        return
    ranges = []

    def enter(*_args: object) -> None:
        ranges.append(record_function(name))
        ranges[-1].__enter__()

    def leave(*_args: object) -> None:
        ranges.pop().__exit__(None, None, None)

    handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seconds(recording: profile, vocabulary: int) -> dict[str, dict[str, float]]:
    """Seconds by phase (of PHASES) and part (of PARTS); what is outside of all phases is left out."""
    found = {phase: dict.fromkeys(PARTS, 0.0) for phase in PHASES.values()}
    widths = {vocabulary, min(vocabulary, TILE), vocabulary % TILE} - {0}
    for event in recording.events():
        phase = _phase(event)
        if phase:
            found[PHASES[phase]][_part(event, widths)] += event.self_cpu_time_total / 1e6
    return found


def _phase(event: FunctionEvent) -> str | None:
    """The innermost of the recorded ranges that an event is in."""
    while event is not None and event.name not in PHASES:
        event = event.cpu_parent
    return event and event.name


def _part(event: FunctionEvent, widths: set[int]) -> str:
    if any(word in event.name for word in ATTENTION):
        return "attention"
    over_vocabulary = any(
        isinstance(size, int) and size in widths for shape in event.input_shapes or () for size in shape or ()
    )
    if event.name in MATRIX_PRODUCTS:
        return "LM head" if over_vocabulary else "linear layers"
    return "softmax over the vocabulary" if over_vocabulary else "other"
