"""A contender in its own process: its time, memory, losses, gradients and profile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.engines.linear import multiplication
from harness.engines.loading import choose_device, choose_dtype
from harness.engines.packing import rows_of
from harness.errors import UserError
from harness.perf import profiling
from harness.perf.contenders import TRL, Contender, Ours, Published
from harness.perf.process import memory, peak_memory
from harness.perf.workload import Workload, flops

Build = Callable[[Workload, torch.device], Contender]
OURS: dict[str, Build] = {
    "ours": Ours,
    "ours-cached": partial(Ours, cached=True),
    "ours-flex": partial(Ours, attention="flex"),
}
CONTENDERS: dict[str, dict[str, Build]] = {  # objective -> its contenders, the peer first
    "sso": {"published": Published, **OURS},
    "dpo": {"trl": TRL, "trl-cached": partial(TRL, cached=True), **OURS},
}
COMPARED = 1 << 16  # compared entries of a parameter's gradient, evenly spaced
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns of the product that measures the machine
PRODUCTS = 10
ENOUGH = 5.0  # seconds of products


def ready(device: str, threads: int) -> torch.device:
    """Prepare this process for measurements on the device.

    Raises:
        UserError: when there is no such device.
    """
    torch.set_num_threads(threads)
    try:
        chosen = torch.device(choose_device(device))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).partition(chr(10))[0]}") from error
    return chosen


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of the fastest of several large matrix products."""
    size = MATRIX.get(device.type, MATRIX["cuda"])
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    multiply = multiplication(b, size)
    best, spent = float("inf"), 0.0
    for _ in range(PRODUCTS):
        synchronize(device)
        start = time.perf_counter()
        multiply(a, b)
        synchronize(device)
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > ENOUGH:  # 16 bits without support by the processor: half a minute per product
            break
    return 2 * size**3 / best


def describe(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what is measured on, with `matmul_flops`, the machine's own speed."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_flops": matmul_flops(device, dtype),
    }


class TrainingSubject:
    """A contender by name."""

    def __init__(self, name: str, workload: Workload) -> None:
        self.workload = workload
        self.device = ready(workload.device, workload.threads)
        self.dtype = choose_dtype(workload.dtype, self.device.type)
        with self._arithmetic():
            self.contender: Contender = CONTENDERS[workload.objective][name](workload, self.device)
        self.loaded = memory(self.device.type)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Autocast where the type has 16 bits; weights and gradients stay float32."""
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if low else nullcontext():
            yield

    def _losses(self) -> Iterator[torch.Tensor]:
        with self._arithmetic():
            yield from self.contender.losses()

    def compare(self) -> dict[str, Any]:
        """Return the losses of all batches, and the sum of their gradients by parameter (COMPARED entries at most)."""
        losses: list[float] = []
        gradients: dict[str, np.ndarray] = {}
        for loss in self._losses():
            loss.backward()
            losses.append(loss.item())
            for name, parameter in self.contender.policy.named_parameters():
                flat = parameter.grad.flatten()
                some = flat[:: -(-len(flat) // COMPARED)].double().cpu().numpy()
                gradients[name] = gradients.get(name, 0) + some
            self.contender.policy.zero_grad()
        return {"losses": losses, "gradients": gradients}

    def round(self) -> float:
        """Return the seconds of a forward and backward pass over all batches."""
        synchronize(self.device)
        start = time.perf_counter()
        for loss in self._losses():
            loss.backward()
            self.contender.policy.zero_grad()
        synchronize(self.device)
        return time.perf_counter() - start

    def memory(self) -> dict[str, int | None]:
        """Return bytes: `loaded` with what stays in memory, and the peak."""
        return {"loaded": self.loaded, "peak": peak_memory(self.device.type)}

    def machine(self) -> dict[str, Any]:
        return describe(self.device, self.dtype)

    def work(self) -> dict[str, Any]:
        """Return the work of a policy pass over all batches, and the `flops` that a round needs at least."""
        needed = 0.0
        for batch in self.workload.batches():
            rows = [
                (len(row.prompt), tuple(map(len, row.completions))) for example in batch for row in rows_of(example)
            ]
            needed += flops(self.workload.shape, rows, self.contender.reference is not None)
        return self.contender.work() | {"flops": needed}

    def profile(self) -> dict[str, dict[str, float]]:
        """Return the seconds of a round by phase and part."""
        if self.device.type != "cpu":
            raise UserError("--profile reads the operators of the CPU: give --device cpu")
        with profiling.recorded() as recording:
            losses = self._losses()
            with profiling.named("reference", self.contender.reference):
                while True:
                    with torch.profiler.record_function(profiling.FORWARD):
                        loss = next(losses, None)
                    if loss is None:
                        break
                    with torch.profiler.record_function(profiling.BACKWARD):
                        loss.backward()
                    self.contender.policy.zero_grad()
        return profiling.seconds(recording, self.workload.shape.vocabulary)


def disagreement(ours: dict[str, Any], peers: dict[str, Any]) -> dict[str, float]:
    """Return the largest relative difference of a loss, and of a parameter's gradient in the Euclidean norm."""
    losses = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], peers["losses"], strict=True)]
    gradients = [
        float(np.linalg.norm(ours["gradients"][name] - theirs) / np.linalg.norm(theirs))
        for name, theirs in peers["gradients"].items()
    ]
    return {"loss": max(losses), "gradient": max(gradients)}
