"""`harness bench train`: run the contenders in turns, and compute their figures."""

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from harness.errors import UserError
from harness.perf.process import Remote
from harness.perf.workload import Workload
from harness.progress import progress

PEERS = {"sso": "published", "dpo": "trl"}
CONTENDERS = {
    "sso": ("published", "ours", "ours-cached", "ours-flex"),
    "dpo": ("trl", "trl-cached", "ours", "ours-cached", "ours-flex"),
}
ON_REQUEST = "ours-flex"  # on CUDA only
AGREES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}  # largest relative difference of a loss


def measure(
    workload: Workload, names: Sequence[str], rounds: int, peak_flops: float | None = None, profile: bool = False
) -> dict[str, Any]:
    """Measure the named contenders for one objective.

    After a warm-up, whose losses and gradients are compared, they run in turns, A B A B, never two at a time.

    Args:
        names: from CONTENDERS[workload.objective]; the ratios need the peer among them.
        peak_flops: floating-point operations per second that utilisation is relative to; None means the fastest matrix
            product measured there.

    Raises:
        UserError: when a contender fails, or its losses differ from the others'.
    """
    with ExitStack() as stack, progress(f"bench train: {workload.objective}", len(names) * (rounds + 2)) as advance:
        subjects = {}
        for remote in [Remote(name, _subject, name, workload) for name in names]:
            advance.note(f"{remote.label}, loading")
            subjects[remote.label] = stack.enter_context(remote)
            advance(1)
        machine = next(iter(subjects.values())).call("machine")
        compared = {}
        for name, subject in subjects.items():
            advance.note(f"{name}, warm-up")
            compared[name] = subject.call("compare")
            advance(1)
        agreement = _agreement(compared, names[0], AGREES[machine["dtype"]])
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for name, subject in subjects.items():
                advance.note(f"{name}, round {number + 1} of {rounds}")
                seconds[name].append(subject.call("round"))
                advance(1)
        memory = {name: subject.call("memory") for name, subject in subjects.items()}
        work = {name: subject.call("work") for name, subject in subjects.items()}
        profiles = {name: subject.call("profile") for name, subject in subjects.items()} if profile else {}
    peak_flops = peak_flops or machine["matmul_flops"]
    data = _data(workload)
    peer = PEERS[workload.objective]
    peers = {"seconds": statistics.median(seconds[peer]), **memory[peer]} if peer in names else None
    return {
        "objective": workload.objective,
        "machine": machine | {"threads": workload.threads, "versions": _versions()},
        "peak_flops": peak_flops,
        "data": data,
        "peer": peer,
        "agreement": agreement,
        "contenders": {
            name: _figures(seconds[name], memory[name], work[name], compared[name]["losses"], data, peak_flops, peers)
            | ({"profile": profiles[name]} if profile else {})
            for name in names
        },
    }


def _subject(name: str, workload: Workload) -> Any:
    from harness.perf.subject import TrainingSubject

    return TrainingSubject(name, workload)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "trl")}


def _agreement(compared: dict[str, dict], against: str, allowed: float) -> dict[str, dict[str, float]]:
    """Return how far each contender's losses and gradients are from those of the first.

    Raises:
        UserError: when a loss differs by more than the arithmetic explains: the computations differ.
    """
    from harness.perf.subject import disagreement

    agreement = {name: disagreement(other, compared[against]) for name, other in compared.items() if name != against}
    for name, differences in agreement.items():
        if not (math.isfinite(differences["loss"]) and differences["loss"] <= allowed):
            raise UserError(
                f"the losses of {name} and {against} differ by {differences['loss']:.2g} of their size, more than "
                f"{allowed:g}: they are not the same computation, so their times are not comparable"
            )
    return agreement


def _data(workload: Workload) -> dict[str, int]:
    """Count a round's data; `tokens` are those of all sequences with their prompts, without padding."""
    sequences = [pair for batch in workload.batches() for example in batch for pair in example]
    return {
        "steps": workload.steps,
        "examples": workload.steps * workload.batch,
        "sequences": len(sequences),
        "tokens": sum(len(prompt) + len(completion) for prompt, completion in sequences),
        "completion_tokens": sum(len(completion) for _, completion in sequences),
        "longest_sequence": max(len(prompt) + len(completion) for prompt, completion in sequences),
    }


def _figures(
    seconds: list[float],
    memory: dict[str, int | None],
    work: dict[str, Any],
    losses: list[float],
    data: dict[str, int],
    peak_flops: float,
    peers: dict[str, Any] | None,
) -> dict[str, Any]:
    median = statistics.median(seconds)
    needed = work.pop("flops")
    peak, loaded = memory["peak"], memory["loaded"]
    above = None if peak is None or loaded is None else peak - loaded
    return {
        "seconds": {"median": median, "min": min(seconds), "max": max(seconds), "rounds": seconds},
        "tokens_per_second": data["tokens"] / median,
        "flops": needed,
        "flops_utilisation": needed / median / peak_flops,
        "peak_memory_bytes": peak,
        "peak_above_loaded_bytes": above,
        "speed_ratio": peers and peers["seconds"] / median,
        "memory_ratio": peers and peak and peak / peers["peak"],
        "memory_above_loaded_ratio": peers and above and above / (peers["peak"] - peers["loaded"]),
        "work": work,
        "losses": losses,
    }
