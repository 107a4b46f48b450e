"""How a process ends: signals that stop a run, and exit statuses."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

GO_ON = "the same command continues where this one stopped"


def how_ended(status: int) -> str:
    """Return what the exit status of a process means."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class Stopped(BaseException):
    """A run was ended by a signal."""

    def __init__(self, path: Path, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}: finished work is kept in {path}, and {GO_ON}")
        self.exit_code = 128 + number


@contextmanager
def stoppable(path: Path) -> Iterator[None]:
    """Let SIGINT (Ctrl-C) and SIGTERM (batch systems) end the run in the folder `path`.

    Raises:
        Stopped: when a signal came, after every `finally` has run.
    """
    number: int = signal.SIGINT

    def terminate(received: int, frame: FrameType | None) -> None:
        nonlocal number
        number = received
        interrupt = signal.getsignal(signal.SIGINT)  # asyncio installs its own; a shell may ignore it
        if not callable(interrupt):
            interrupt = signal.default_int_handler
        interrupt(signal.SIGINT, frame)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(path, number) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
