"""A function in its own process, where it can crash or change library settings without harm to ours.

pebble starts, restarts and kills the process. The limit on processor time is the kernel's timer (SIGPROF), which also
stops a regular expression that never returns to Python.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from harness.errors import UserError

WAITING = 20  # wall-clock limit, as a multiple of the limit on processor time
START_LIMIT = 120.0  # seconds until the process is ready: imports may take long on a busy machine

_function: Callable[[Any], Any] | None = None  # in the worker process


class NoAnswer(Exception):
    """A call took too long, or crashed the process."""


class Worker:
    """Calls `prepare(*arguments)` once in a new process, and then the function that it returned for each `call`.

    The process starts with the first call that needs it, and again after one that had to be killed.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any, limit: float) -> None:
        """
        Args:
            prepare: a function of a module, which the process imports by name; it returns a function of one argument.
            limit: seconds of processor time per call, so that a busy machine changes no verdict. A call may take
                WAITING times as long by the wall clock.
        """
        self._prepare, self._arguments, self._limit = prepare, arguments, limit
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def call(self, request: Any) -> Any:
        """Return the function's answer.

        Raises:
            NoAnswer: when there is none within the limit.
            UserError: when the process does not start.
        """
        if self._pool is None:
            given = (self._prepare, self._arguments)
            # a fork of a process with torch's threads can deadlock
            self._pool = ProcessPool(1, context=get_context("spawn"), initializer=_start, initargs=given)
        longest = WAITING * self._limit
        answer = self._pool.schedule(_answer, args=(request, self._limit), timeout=longest)
        try:
            return answer.result(START_LIMIT + longest)
        except (TimeoutError, ProcessExpired):
            answer.cancel()  # where it still waits for the process to start
            raise NoAnswer from None
        except BrokenProcessPool:
            self.close()
            raise UserError(
                "the process that checks answers did not start: a script that calls harness must do so below "
                "if __name__ == '__main__'"
            ) from None

    def close(self) -> None:
        """End the process, if there is one; the next call starts another."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _start(prepare: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _function
    _function = prepare(*arguments)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process


def _answer(request: Any, limit: float) -> Any:
    assert _function is not None
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        return _function(request)
    except Exception:  # also MemoryError: the next call gets a fresh process
        os._exit(1)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
