"""A function in a process of its own: what it does can be ended when it takes too long, on any thread.

It may also bring its process down, or change settings of libraries, without harm to ours.
"""

import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import psutil

from harness.errors import UserError

WAITING = 20  # times the limit on processor time, for the wall clock
LOOK = 0.25  # seconds between two looks at the processor time
START_LIMIT = 120.0  # seconds until the process is ready: a busy machine may take long to import


class NoAnswer(Exception):
    """A call took too long, or brought the process down."""


class Worker:
    """Calls `prepare(*arguments)` once in a new process, and there what it returned for each `call`.

    prepare: a function of a module, as the process imports it by name; it returns a function of one argument.
    limit: seconds of its processor time that a call may take: a busy machine changes no verdict. It may wait WAITING
        times as long in all.

    The process starts with the first call that needs it, and anew after one that had to be ended.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any, limit: float) -> None:
        self._prepare, self._arguments, self._limit = prepare, arguments, limit
        self._process = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def call(self, request: Any) -> Any:
        """The function's answer.

        Raises:
            NoAnswer: when there is none within the limit.
        """
        if self._process is None:
            self._start()
        try:
            end, until = self._seconds() + self._limit, time.monotonic() + WAITING * self._limit
            self._connection.send(request)
            while not (answered := self._connection.poll(LOOK)) and time.monotonic() < until and self._seconds() < end:
                pass
            if answered:
                return self._connection.recv()
        except (EOFError, OSError, psutil.NoSuchProcess):  # the call brought the process down
            pass
        self.close()
        raise NoAnswer

    def _seconds(self) -> float:
        """Of processor time that the process has used."""
        used = psutil.Process(self._process.pid).cpu_times()
        return used.user + used.system

    def _start(self) -> None:
        context = get_context("spawn")  # a fork of a process with torch's threads can deadlock
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._prepare, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            ready = self._connection.poll(START_LIMIT) and self._connection.recv()
        except EOFError:
            ready = False
        if not ready:
            self.close()
            raise UserError(
                "the process that checks answers did not start: a script that calls harness must do so below "
                "if __name__ == '__main__'"
            )

    def close(self) -> None:
        """End the process, if there is one; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection.close()
            self._process = self._connection = None


def _serve(connection: Connection, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    function = prepare(*arguments)
    try:
        connection.send(True)
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, BrokenPipeError):  # the parent has ended
        pass
