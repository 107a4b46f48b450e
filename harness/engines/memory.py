"""Batches that do not fit in memory: how to notice, and how to continue with smaller ones."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psutil
import torch

from harness.errors import UserError
from harness.progress import Advance

SIGNS = (  # in errors from PyTorch, CUDA, cuBLAS and oneDNN
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory",
)
SHARE = 0.5  # of the free memory, for the keys and values of what is generated
T = TypeVar("T")


def shortage(error: MemoryError | RuntimeError) -> str | None:
    """Return what an error says about running out of memory; None if it is another error."""
    if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in SIGNS):
        return None
    return str(error).strip().partition("\n")[0] or type(error).__name__


def free() -> None:
    """Free unreferenced memory."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def available(device: torch.device) -> int:
    """Return the bytes of memory that this process can still use on a device."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Counted:
    """Progress of work that may have to be redone."""

    def __init__(self, advance: Advance | None) -> None:
        self._advance, self._count = advance, 0

    def __call__(self, count: int) -> None:
        self._count += count
        if self._advance:
            self._advance(count)

    def take_back(self) -> None:
        if self._count:
            self(-self._count)


@dataclass
class Limit:
    """The largest batch to try, in `unit`: half of the last one that did not fit, or `first`."""

    size: int
    unit: str
    name: str
    _failed: int = 0  # size of the first batch that did not fit and was not reported yet

    def __post_init__(self) -> None:
        self.first = self.size

    def attempt(self, compute: Callable[[], T], rows: int, size: int) -> T | None:
        """Return what `compute` returns, or None if it does not fit in memory; `size` is then smaller.

        Args:
            rows, size: of this batch.

        Raises:
            UserError: when a single row does not fit.
        """
        try:
            result = compute()
        except (MemoryError, RuntimeError) as error:
            if (reason := shortage(error)) is None:
                raise
        else:
            self._report(rows)
            return result
        free()  # the error held the tensors of the failed attempt
        if rows == 1:
            raise UserError(
                f"one sequence of {self.name} does not fit in memory ({reason}): give shorter ones (--max-new-tokens), "
                "a smaller model or another --device; the same command then continues where this one stopped"
            )
        self._failed = self._failed or size
        self.size = size // 2
        return None

    def each(
        self, batches: Iterable[list[int]], size: Callable[[list[int]], int], compute: Callable[[list[int]], T]
    ) -> Iterator[tuple[list[int], T]]:
        """Yield each batch with what `compute` returns for it; one that does not fit in memory is halved.

        Args:
            size: of a batch.
        """
        for batch in batches:
            parts = [batch]
            while parts:
                part = parts.pop()
                taken = size(part)
                tried = len(part) == 1 or taken <= self.size
                made = self.attempt(partial(compute, part), len(part), taken) if tried else None
                if made is None:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    yield part, made

    def fit(self, each: int, free: int) -> int:
        """Return the size, lowered (and reported) to what takes at most `SHARE` of the free memory.

        Args:
            each: bytes of one prompt's keys and values.
            free: bytes.
        """
        fitting = max(1, int(SHARE * free / each))
        if fitting < self.size:
            print(
                f"note: {fitting} {self.unit} of {self.name} are answered at once, not {self.size}: keys and values "
                f"take up to {each / 2**20:,.0f} MiB each, and {free / 2**20:,.0f} MiB of memory are free",
                file=sys.stderr,
            )
            self.size = fitting
        return self.size

    def _report(self, rows: int) -> None:
        if self._failed:
            print(
                f"warning: {self._failed} {self.unit} of {self.name} do not fit in memory at once: continuing with "
                f"{self.size} (--batch-size {rows} avoids the failed attempt)",
                file=sys.stderr,
            )
            self._failed = 0
