"""Arms of an experiment in processes of their own. When one fails or dies, the others end, and can go on later."""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.marks import Folder
from harness.progress import PLAIN_VARIABLE
from harness.runs.arm import Arm, failure_of
from harness.runs.inputs import Inputs, load_inputs
from harness.signals import GO_ON, how_ended

GRACE = 10.0  # seconds in which a process may end what it does by itself
ASKED_AGAIN = 2.0  # seconds after which it is told once more to end


def run_arms(
    experiment: Experiment, root: Folder, arms: Sequence[Arm], inputs: Inputs, jobs: int, ray: str | None = None
) -> None:
    """Runs arms one after the other, in so many processes, or on a Ray cluster.

    Args:
        inputs: of arms that run in this process.
        ray: address of the cluster.

    Raises:
        UserError: that of an arm, or when its process died; the processes of the others have ended too.
    """
    if ray:
        from harness.runs.ray import run_arms_on_ray

        run_arms_on_ray(experiment, root, arms, ray)
        return
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
    memory = " (is memory short? fewer --jobs need less)" if status == -signal.SIGKILL else ""
    return UserError(f"{arm}: its process {process.pid} {how_ended(status)}{memory}; {GO_ON}")


@contextmanager
def _processes(experiment: Experiment, root: Folder, number: int) -> Iterator[dict[Connection, SpawnProcess]]:
    """Processes, each with its connection; none is left afterwards."""
    context = get_context("spawn")
    processes = {}
    resource_tracker.ensure_running()  # by itself it would let SIGINT through to the first process
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
            _end([process for process in processes.values() if process.pid])


def _end(processes: Sequence[SpawnProcess]) -> None:
    """Ends processes: they are told until they do, because Python loses an exception that a signal raises within a
    destructor."""
    deadline = time.monotonic() + GRACE
    while (running := [process for process in processes if process.is_alive()]) and time.monotonic() < deadline:
        again = time.monotonic() + ASKED_AGAIN
        for process in running:
            process.terminate()
        for process in running:
            process.join(max(0.0, again - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


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
    sys.unraisablehook = _tell_unless_ending
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    Thread(target=_end_with_parent, daemon=True).start()
    os.environ[PLAIN_VARIABLE] = "1"  # several bars would overwrite each other
    try:
        _run_what_comes(connection, experiment, root)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is left but what the interpreter does to end


def _tell_unless_ending(lost: "sys.UnraisableHookArgs") -> None:
    """The end that a signal asked for is no error, wherever it was lost: it is asked for again."""
    if not issubclass(lost.exc_type, SystemExit):
        sys.__unraisablehook__(lost)


def _run_what_comes(connection: Connection, experiment: Experiment, root: Folder) -> None:
    """Runs the arms that are sent, until there are no more."""
    inputs = cache(lambda: load_inputs(experiment, root))
    while True:
        try:
            arm = connection.recv()
        except EOFError:
            return
        connection.send(failure_of(arm.run, inputs))


def _end_with_parent() -> None:
    """Ends this process when its parent has died: the folder is then free for the next run, and must not be written."""
    parent_process().join()
    os._exit(1)
