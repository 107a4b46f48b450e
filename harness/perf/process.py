"""An object in a process of its own, called from here one method at a time.

Contenders are measured in turns, so that what disturbs the machine disturbs all of them, and each has a process of its
own, so that its peak of memory is its own.
"""

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from harness.errors import UserError

STATUS = "/proc/self/status"
PATIENCE = 10.0  # seconds that a process gets to end by itself


class Remote:
    """The object that `build(*arguments)` gives, in a new process. To be used in a `with` block, which starts when the
    object is there; the process starts before that.

    Raises:
        UserError: from any call, when the object raised one, memory ran out, or the process ended.
    """

    def __init__(self, label: str, build: Callable[..., Any], *arguments: Any) -> None:
        self.label = label
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, arguments), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> "Remote":
        self._receive()
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def call(self, method: str, *arguments: Any) -> Any:
        self._connection.send((method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            failed, value = self._connection.recv()
        except EOFError:
            self._process.join(PATIENCE)
            raise UserError(f"{self.label}: {_ended(self._process.exitcode)}") from None
        if failed:
            raise UserError(f"{self.label}: {value}")
        return value


def _ended(code: int | None) -> str:
    if code == -9:
        return "its process was killed, most likely because memory ran out: take a smaller --batch or shape"
    return f"its process ended with code {code}; what it said is above"


def _serve(connection: Connection, build: Callable[..., Any], arguments: tuple) -> None:
    """Runs in the new process until the other end closes. Standard output belongs to the caller's results."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    served = None
    with contextlib.suppress(EOFError):
        method, given = "", arguments
        while True:
            try:
                if served is None:
                    served, result = build(*given), None
                else:
                    result = getattr(served, method)(*given)
                connection.send((False, result))
            except UserError as error:
                connection.send((True, str(error)))
            except (MemoryError, RuntimeError) as error:
                if not isinstance(error, MemoryError) and "memory" not in str(error):
                    raise
                connection.send((True, f"memory ran out: take a smaller --batch or shape ({error})"))
            method, given = connection.recv()


def peak_memory(device: str) -> int | None:
    """Bytes: the most that this process held so far; on a GPU, the most that its tensors took there.

    None where the system does not say. (The resource module would give the parent's peak where that is larger.)
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def memory(device: str) -> int | None:
    """Bytes that this process holds now, in the same terms."""
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
