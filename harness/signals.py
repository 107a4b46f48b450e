"""How a process ends: signals that stop a run, and exit statuses."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GO_ON = "the same command goes on where this one stopped"


def how_ended(status: int) -> str:
    """What the exit status of a process says."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class Stopped(BaseException):
    """A signal ended a run."""

    def __init__(self, path: Path, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}: what was done is kept in {path}, and {GO_ON}")
        self.exit_code = 128 + number


@contextmanager
def stoppable(path: Path) -> Iterator[None]:
    """Inside, SIGINT (Ctrl-C) and SIGTERM (of a batch system) end the run in the folder `path`.

    Raises:
        Stopped: after the `finally` of all that was running.
    """
    number = signal.SIGINT

    def terminate(received: int, frame) -> None:
        nonlocal number
        number = received
        interrupt = signal.getsignal(signal.SIGINT)  # asyncio has its own; a shell may have it ignored
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(path, number) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
