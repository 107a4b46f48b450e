"""Run arms of an experiment in worker processes.

When an arm cannot be trained, the others go on. When one fails for any other reason, or its process dies, the others
end, and can continue later.
"""

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
from statistics import fmean
from threading import Thread

from harness.errors import CannotTrain, UserError
from harness.experiment.options import Experiment
from harness.files.folders import RunFolder
from harness.progress import PLAIN_VARIABLE, SHORTEST, duration
from harness.runs.arm import Arm, failure_of
from harness.runs.inputs import Inputs, load_inputs
from harness.runs.untrained import Untrained
from harness.signals import GO_ON, how_ended

GRACE = 10.0  # seconds in which a process may end by itself
ASKED_AGAIN = 2.0  # seconds until the signal is repeated


def run_arms(
    experiment: Experiment, root: RunFolder, arms: Sequence[Arm], inputs: Inputs, jobs: int, ray: str | None = None
) -> None:
    """Run arms one after the other in this process, in several processes, or on a Ray cluster.

    Args:
        inputs: for arms that run in this process.
        jobs: processes, 1 for this one.
        ray: address of the cluster.

    Raises:
        CannotTrain: when some arms cannot be trained, naming them; the others are finished.
        UserError: that of an arm, or when its process died; the other processes have ended by then.
    """
    untrained = Untrained()
    if ray:
        from harness.runs.ray import run_arms_on_ray

        run_arms_on_ray(experiment, root, arms, ray, untrained)
    elif jobs == 1:
        _run_here(arms, inputs, untrained)
    else:
        _run_in_processes(experiment, root, arms, jobs, untrained)
    untrained.check(arms)


def _run_here(arms: Sequence[Arm], inputs: Inputs, untrained: Untrained) -> None:
    left = ArmsLeft(len(arms), 1)
    for arm in arms:
        left.starts(arm)
        try:
            arm.run(inputs)
        except CannotTrain as failure:
            untrained.add(arm, failure)
        left.ends(arm)


def _run_in_processes(
    experiment: Experiment, root: RunFolder, arms: Sequence[Arm], jobs: int, untrained: Untrained
) -> None:
    left = ArmsLeft(len(arms), min(jobs, len(arms)))
    with _processes(experiment, root, min(jobs, len(arms))) as processes:
        waiting = deque(arms)
        running = {connection: _start(connection, waiting, left) for connection in processes}
        while running:
            ready = wait(running)
            for connection in [each for each in running if each in ready]:
                arm = running.pop(connection)
                try:
                    failure = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(processes[connection], arm.label) from None
                if failure:
                    untrained.add(arm, failure)
                left.ends(arm)
                if waiting:
                    running[connection] = _start(connection, waiting, left)


class ArmsLeft:
    """Says which arm begins, and how long those that are left will take, from the arms that this call has trained."""

    def __init__(self, arms: int, jobs: int) -> None:
        self._arms, self._jobs, self._begun = arms, jobs, 0
        self._started: dict[str, float] = {}
        self._took: list[float] = []

    def starts(self, arm: Arm) -> None:
        """Print a line: "arm 2 of 3: sso seed 0, about 40 s left"."""
        left = self._arms - self._begun  # those that run beside it are half done, on average
        waits = max(left, self._jobs) / self._jobs * fmean(self._took) if self._took else 0.0
        estimate = f", about {duration(waits)} left" if waits else ""
        self._begun += 1
        self._started[arm.label] = time.monotonic()
        print(f"arm {self._begun} of {self._arms}: {arm.label}{estimate}", file=sys.stderr, flush=True)

    def ends(self, arm: Arm) -> None:
        """Take the time of an arm that trained; an arm without training, or finished before, predicts nothing."""
        took = time.monotonic() - self._started.pop(arm.label)
        if arm.stages and took >= SHORTEST:
            self._took.append(took)


def _start(connection: Connection, waiting: deque[Arm], left: ArmsLeft) -> Arm:
    """Send the next arm to a process."""
    arm = waiting.popleft()
    left.starts(arm)
    with suppress(BrokenPipeError):  # the process has died, which reading its answer shows
        connection.send(arm)
    return arm


def _died(process: SpawnProcess, arm: str) -> UserError:
    process.join()
    status = process.exitcode or 0
    memory = " (out of memory? fewer --jobs need less)" if status == -signal.SIGKILL else ""
    return UserError(f"{arm}: its process {process.pid} {how_ended(status)}{memory}; {GO_ON}")


@contextmanager
def _processes(experiment: Experiment, root: RunFolder, number: int) -> Iterator[dict[Connection, SpawnProcess]]:
    """Start processes, each with its connection; all have ended afterwards."""
    context = get_context("spawn")
    processes: dict[Connection, SpawnProcess] = {}
    resource_tracker.ensure_running()  # else the first process would start it, and receive SIGINT
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
    """End processes. The signal is repeated, because Python loses an exception that it raises within a destructor."""
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
    """Delay signals to stop. Processes that are started inside never see Ctrl-C: their parent does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, experiment: Experiment, root: RunFolder) -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    sys.unraisablehook = _report_unless_ending
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    Thread(target=_end_with_parent, daemon=True).start()
    os.environ[PLAIN_VARIABLE] = "1"  # bars of several processes would overwrite each other
    try:
        _run_what_comes(connection, experiment, root)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the interpreter's own shutdown is left


def _report_unless_ending(lost: "sys.UnraisableHookArgs") -> None:
    """Do not report an exit that a signal asked for and that was lost: the signal is repeated."""
    if not issubclass(lost.exc_type, SystemExit):
        sys.__unraisablehook__(lost)


def _run_what_comes(connection: Connection, experiment: Experiment, root: RunFolder) -> None:
    """Run the arms that are sent, until there are no more."""
    inputs = cache(lambda: load_inputs(experiment, root))
    while True:
        try:
            arm = connection.recv()
        except EOFError:
            return
        connection.send(failure_of(arm.run, inputs))


def _end_with_parent() -> None:
    """End this process when its parent dies: the folder is then free for another run, and must not be written."""
    if parent := parent_process():
        parent.join()
    os._exit(1)
