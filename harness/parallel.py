"""Arms of an experiment in processes of their own. When one fails or dies, the others end, and can go on later."""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread

from harness.arm import Arm
from harness.errors import UserError
from harness.experiment import Experiment
from harness.faults import GO_ON, of_disk
from harness.inputs import Inputs, load_inputs
from harness.progress import PLAIN_VARIABLE
from harness.steps import Folder

WARNINGS = "PYTHONWARNINGS"
GRACE = 10.0  # seconds in which a process may end what it does by itself


def run_arms(experiment: Experiment, root: Folder, arms: Sequence[Arm], inputs: Inputs, jobs: int) -> None:
    """Runs arms one after the other, or in so many processes.

    Args:
        inputs: of arms that run in this process.

    Raises:
        UserError: that of an arm, or when its process died; the processes of the others have ended too.
    """
    if jobs == 1:
        for arm in arms:
            arm.run(inputs)
        return
    with _processes(experiment, root, min(jobs, len(arms))) as processes:
        waiting = deque(arms)
        running = {connection: _start(connection, waiting) for connection in processes}
        while running:
            for connection in wait(running):
                arm = running.pop(connection)
                try:
                    failure = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(processes[connection], arm.label) from None
                if failure:
                    raise UserError(f"{arm.label}: {failure}")
                if waiting:
                    running[connection] = _start(connection, waiting)


def _start(connection: Connection, waiting: deque[Arm]) -> Arm:
    """Sends the next arm to a process."""
    arm = waiting.popleft()
    with suppress(BrokenPipeError):  # it has died, which is seen when its answer is read
        connection.send(arm)
    return arm


def _died(process: SpawnProcess, arm: str) -> UserError:
    process.join()
    status = process.exitcode
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    memory = " (is memory short? fewer --jobs need less)" if status == -signal.SIGKILL else ""
    return UserError(f"{arm}: its process {process.pid} {how}{memory}; {GO_ON}")


@contextmanager
def _processes(experiment: Experiment, root: Folder, number: int) -> Iterator[dict[Connection, SpawnProcess]]:
    """Processes, each with its connection; none is left afterwards."""
    context = get_context("spawn")
    processes = {}
    _start_tracker()  # by itself it would let SIGINT through to the first process
    try:
        for _ in range(number):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_work, args=(theirs, experiment, root))
            with _uninterrupted():
                processes[ours].start()
            theirs.close()
        yield processes
    finally:
        with _uninterrupted():
            for process in processes.values():
                if process.pid:
                    process.terminate()
            deadline = time.monotonic() + GRACE
            for process in processes.values():
                if process.pid:
                    process.join(max(0.0, deadline - time.monotonic()))
                    process.kill()
                    process.join()


def _start_tracker() -> None:
    """Starts what cleans up after processes, without its warning that it did: they may be killed in their work."""
    before = os.environ.get(WARNINGS)
    os.environ[WARNINGS] = "ignore::UserWarning"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ[WARNINGS]
        if before is not None:
            os.environ[WARNINGS] = before


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Inside, a signal to stop waits; processes that are started inside never see Ctrl-C: their parent does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, experiment: Experiment, root: Folder) -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    Thread(target=_end_with_parent, daemon=True).start()
    os.environ[PLAIN_VARIABLE] = "1"  # several bars would overwrite each other
    inputs = None
    while True:
        try:
            arm = connection.recv()
        except EOFError:
            return
        failure = None
        try:
            inputs = inputs or load_inputs(experiment, root)
            arm.run(inputs)
        except UserError as error:
            failure = str(error)
        except OSError as error:
            if (told := of_disk(error)) is None:
                raise
            failure = str(told)
        connection.send(failure)


def _end_with_parent() -> None:
    """Ends this process when its parent has died: the folder is then free for the next run, and must not be written."""
    parent_process().join()
    os._exit(1)
