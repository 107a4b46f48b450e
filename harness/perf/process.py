"""An object in its own process, called from here one method at a time.

Contenders are measured in turns, so that a disturbance of the machine affects all of them, and each has its own process
(by pebble), so that its peak of memory is its own.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from harness.errors import UserError

STATUS = "/proc/self/status"

_served: Any = None  # in the contender's process: the object


class Remote:
    """The object that `build(*arguments)` returns, in a new process. The process starts at once; the `with` block
    starts when the object is there.

    Raises:
        UserError: from any call, when the object raised one, memory ran out, or the process died.
    """

    def __init__(self, label: str, build: Callable[..., Any], *arguments: Any) -> None:
        self.label = label
        self._pool = ProcessPool(1, context=get_context("spawn"), initializer=_start)
        self._built = self._pool.schedule(_build, args=(build, arguments))

    def __enter__(self) -> "Remote":
        self._result(self._built)
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.stop()
        self._pool.join()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object and return its result."""
        return self._result(self._pool.schedule(_call, args=(method, arguments)))

    def _result(self, future: "Future[Any]") -> Any:
        try:
            return future.result()
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from None
        except ProcessExpired as error:
            raise UserError(f"{self.label}: {_ended(error.exitcode)}") from None


def _ended(code: int | None) -> str:
    if code == -9:
        return "its process was killed, most likely because memory ran out: use a smaller --batch or shape"
    return f"its process ended with code {code}; its output is above"


def _start() -> None:
    """Keep standard output for the caller's results."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")


def _build(build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _served
    with _failures():
        _served = build(*arguments)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    with _failures():
        return getattr(_served, method)(*arguments)


@contextmanager
def _failures() -> Iterator[None]:
    """Inside, an exception other than a user's mistake or a lack of memory ends the process."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            raise UserError(f"memory ran out: use a smaller --batch or shape ({error})") from None
        traceback.print_exc()
        os._exit(1)


def peak_memory(device: str) -> int | None:
    """Return the peak memory of this process in bytes; on a GPU, that of its tensors there.

    None if the system does not report it. (The resource module gives the parent's peak if that is larger.)
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def memory(device: str) -> int | None:
    """Return the memory in use now, in bytes (see `peak_memory`)."""
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated()
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        with open(STATUS, encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except FileNotFoundError:
        return None
