"""Where a step's time goes: operators of torch's profiler, grouped by part and phase."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

FORWARD, REFERENCE, BACKWARD = "forward", "reference", "backward"  # names of the recorded ranges
PHASES = {FORWARD: "policy", REFERENCE: "reference", BACKWARD: "backward"}  # forward excludes the reference
PARTS = ("linear layers", "attention", "LM head", "softmax over the vocabulary", "other")
MATRIX_PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"}
ATTENTION = ("scaled_dot_product", "flash_attention", "aten::bmm", "aten::baddbmm")
TILE = 32_768  # columns of a larger vocabulary that TRL's fused LM head processes at a time


@contextmanager
def recorded() -> Iterator[profile]:
    """Inside, the profiler records."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recording:
        yield recording


@contextmanager
def named(name: str, model: torch.nn.Module | None) -> Iterator[None]:
    """Inside, the model's forward pass is recorded under this name."""
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
    """Return seconds by phase (of PHASES) and part (of PARTS), ignoring what is outside of all phases."""
    spent = {phase: dict.fromkeys(PARTS, 0.0) for phase in PHASES.values()}
    widths = {vocabulary, min(vocabulary, TILE), vocabulary % TILE} - {0}
    for event in recording.events():
        phase = _phase(event)
        if phase:
            spent[PHASES[phase]][_part(event, widths)] += event.self_cpu_time_total / 1e6
    return spent


def _phase(event: FunctionEvent) -> str | None:
    """Return the innermost recorded range that contains an event."""
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
