"""One training in several processes of this machine: starts them through a launcher, watches them, returns the result.

The processes (`harness.training.processes.worker`) read a job of plain values, and end when this process does, whatever
ends it.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.files import code_files, store
from harness.progress import Advance
from harness.signals import GO_ON, how_ended
from harness.training.examples import Objective, TrainingOptions
from harness.training.processes.command import WORKER, LaunchCommand

if TYPE_CHECKING:
    from harness.engines.base import TrainableEngine
    from harness.training.base import Training, TrainResult
    from harness.training.dataset import ExampleData
    from harness.training.reference import ReferenceLogProbs

JOB, OUTCOME, LOG = "job.json", "outcome.json", "launcher.log"
GRACE = 10.0  # seconds that the launcher gets to end its processes
TAIL = 3  # how many last lines of a log a message quotes
DEATH = re.compile(r"rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)  # in torchrun's report


def train_in_processes(
    engine: "TrainableEngine",
    data: "ExampleData",
    objective: Objective,
    reference: "ReferenceLogProbs | None",
    training: "Training",
    output_dir: Path,
    advance: Advance | None = None,
) -> "TrainResult":
    """Train as `trainer.train` does, in the processes of `training.processes` and without charging the ledger.

    Raises:
        TrainingDiverged, UserError: raised by a process, or because one died.
    """
    from harness.training.base import TrainResult

    processes = training.processes
    if processes is None:
        raise ValueError("the training names no processes")
    state = Path(training.args.output_dir)
    job = {
        "launcher": asdict(processes.command),
        "model": engine.name,
        "trust_remote_code": processes.trust_remote_code,
        "reading": asdict(engine.reading),
        "on_gpu": not training.args.use_cpu,
        "bf16": bool(training.args.bf16),
        "options": {option.name: getattr(processes.options, option.name) for option in fields(TrainingOptions)},
        "seed": training.args.seed,
        "objective": _described(objective),
        "examples": data.rows.cache_files[0]["filename"],
        "digests": data.digests,
        "lengths": data.lengths.tolist(),
        "reference": reference.totals.tolist() if reference and objective.needs_reference else None,
        "tracking": asdict(training.tracking) if training.tracking else None,
        "snapshots": list(training.snapshots),
        "state": str(state),
        "output": str(output_dir),
    }
    with _off_gpu(engine):
        outcome = run(processes.command, job, state.with_name("processes"), advance)
    return TrainResult(output_dir, outcome["updates"], outcome["history"])


def _described(objective: Objective) -> dict[str, Any]:
    if not is_dataclass(objective):
        raise UserError(
            f"objective {type(objective).__name__} is not a dataclass of plain values, which --gpus and --launcher "
            "need: make it one, or train in one process"
        )
    kind = type(objective)
    file = code_files.imported(kind.__module__)
    return {
        "module": kind.__module__,
        "file": str(file.path.resolve()) if file else None,
        "name": kind.__qualname__,
        "values": asdict(objective),
    }


@contextmanager
def _off_gpu(engine: "TrainableEngine") -> Iterator[None]:
    """Within the block, the engine's model leaves the GPU to the processes."""
    from harness.engines import memory

    device = engine.model.device
    engine.model.to("cpu")
    memory.free()
    try:
        yield
    finally:
        engine.model.to(device)


def run(launcher: LaunchCommand, job: dict[str, Any], folder: Path, advance: Advance | None = None) -> dict[str, Any]:
    """Run a job and return its outcome. No process is left afterwards.

    Args:
        folder: gets the job, and the logs of the launcher and of each process.

    Raises:
        TrainingDiverged, UserError: raised by a process, or because one died.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="harness-") as temporary:  # a shared file system may not support pipes
        pipe = Path(temporary) / "progress"
        os.mkfifo(pipe)
        store.write_text(folder / JOB, json.dumps({**job, "pipe": str(pipe)}, default=str))
        status = _watch(launcher, folder, pipe, advance)
    if status or not (folder / OUTCOME).exists():
        raise _failure(folder, status)
    return store.read_json(folder / OUTCOME)


def _watch(launcher: LaunchCommand, folder: Path, pipe: Path, advance: Advance | None) -> int:
    """Start the processes, pass on their progress until their launcher ends, and return its exit status."""
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # open for writing too, so that it never reaches its end
    command = [sys.executable, "-m", launcher.module, *launcher.options, "-m", WORKER, str(folder / JOB)]
    with open(folder / LOG, "wb") as log:
        # in a session of its own: Ctrl-C is for this process, which then ends the others
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        rest = b""
        while True:
            ended = process.poll() is not None
            while select.select([reader], [], [], 0 if ended else 0.1)[0]:
                *counts, rest = (rest + os.read(reader, 1 << 16)).split(b"\n")
                if advance and counts:
                    advance(sum(map(int, counts)))
            if ended:
                return process.returncode
    finally:
        os.close(reader)  # tells the processes to end
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _failure(folder: Path, status: int) -> UserError:
    """The error that a process left, or how the first one died."""
    from harness.training.base import TrainingDiverged

    for file in sorted(folder.glob("failure-*.json")):
        failure = store.read_json(file)
        return (TrainingDiverged if failure["kind"] == "TrainingDiverged" else UserError)(failure["text"])
    report = _text(folder / LOG)
    deaths = [(int(rank), int(code)) for rank, code in DEATH.findall(report)]
    # where one was killed, the others lose their connection to it or are ended by the launcher
    killed = [death for death in deaths if death[1] < 0 and death[1] != -signal.SIGTERM]
    who, log = "the launcher", folder / LOG
    if deaths:
        rank, status = (killed or deaths[-1:])[0]  # torchrun names the root cause last
        who, log = f"process {rank} of the training", folder / f"process-{rank}.log"
    memory = " (out of memory?)" if status == -signal.SIGKILL else ""
    tail = " / ".join([line.strip() for line in _text(log).splitlines() if line.strip()][-TAIL:])
    return UserError(
        f"{who} {how_ended(status)}{memory}; its log {log} "
        + (f"ends with {tail!r}" if tail else "is empty")
        + f"; {GO_ON}"
    )


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
