"""Batches that memory does not hold: how that shows, and how to go on with smaller ones."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from harness.errors import UserError
from harness.progress import Advance

SIGNS = (  # in errors of PyTorch, CUDA, cuBLAS, oneDNN
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory",
)
T = TypeVar("T")


def shortage(error: MemoryError | RuntimeError) -> str | None:
    """What an error says of memory that was short, None when that is not what it is about."""
    if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in SIGNS):
        return None
    return str(error).strip().partition("\n")[0] or type(error).__name__


def free() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Counted:
    """Progress of work that may have to be done again."""

    def __init__(self, advance: Advance | None):
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
    """The largest batch that is tried, in `unit`: half of the last one that did not fit, or `first`."""

    size: int
    unit: str
    name: str
    _failed: int = 0  # size of the first batch that did not fit and has not been told of

    def __post_init__(self) -> None:
        self.first = self.size

    def attempt(self, compute: Callable[[], T], rows: int, size: int) -> T | None:
        """What `compute` returns, or None when memory does not hold it: then `size` is less.

        Args:
            rows, size: of this batch.

        Raises:
            UserError: when that is a single row.
        """
        try:
            result = compute()
        except (MemoryError, RuntimeError) as error:
            if (reason := shortage(error)) is None:
                raise
        else:
            self._tell(rows)
            return result
        free()  # the error held the tensors of the failed try
        if rows == 1:
            raise UserError(
                f"memory does not hold one sequence of {self.name} ({reason}): give shorter ones (--max-new-tokens), a "
                "smaller model or another --device; the same command then goes on where this one stopped"
            )
        self._failed = self._failed or size
        self.size = size // 2
        return None

    def _tell(self, rows: int) -> None:
        if self._failed:
            print(
                f"warning: memory does not hold {self._failed} {self.unit} at once with {self.name}: going on with "
                f"{self.size} (--batch-size {rows} avoids the failed try)",
                file=sys.stderr,
            )
            self._failed = 0
