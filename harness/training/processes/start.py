"""One training in several processes of this machine: started by a launcher, watched, and brought back.

The processes (`harness.training.processes.worker`) read a job of plain values and end with this process, whatever ends
it.
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
from harness.files import store
from harness.progress import Advance
from harness.signals import GO_ON, how_ended
from harness.training.examples import Objective, TrainingOptions
from harness.training.processes.command import WORKER, LaunchCommand

if TYPE_CHECKING:
    from harness.engines.transformers import TransformersEngine
    from harness.training.base import Training, TrainResult
    from harness.training.dataset import ExampleData
    from harness.training.reference import ReferenceLogProbs

JOB, OUTCOME, LOG = "job.json", "outcome.json", "launcher.log"
GRACE = 10.0  # seconds in which the launcher may end its processes by itself
TAIL = 3  # last lines of a log in a message
DEATH = re.compile(r"rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)  # in torchrun's report


def train_in_processes(
    engine: "TransformersEngine",
    data: "ExampleData",
    objective: Objective,
    reference: "ReferenceLogProbs | None",
    training: "Training",
    output_dir: Path,
    advance: Advance | None = None,
) -> "TrainResult":
    """What `trainer.train` does, but for the ledger, in processes of training.launch.

    Raises:
        TrainingDiverged, UserError: that of a process, or when one died.
    """
    from harness.training.base import TrainResult

    state = Path(training.args.output_dir)
    job = {
        "launcher": asdict(training.launch.launcher),
        "model": engine.name,
        "trust_remote_code": training.launch.trust_remote_code,
        "reading": asdict(engine.reading),
        "on_gpu": bool(training.args.bf16),
        "options": {each.name: getattr(training.launch.options, each.name) for each in fields(TrainingOptions)},
        "seed": training.args.seed,
        "objective": _described(objective),
        "examples": data.rows.cache_files[0]["filename"],
        "digests": data.digests,
        "lengths": data.lengths.tolist(),
        "reference": reference.totals.tolist() if objective.needs_reference else None,
        "tracking": asdict(training.tracking) if training.tracking else None,
        "state": str(state),
        "output": str(output_dir),
    }
    with _off_gpu(engine):
        outcome = run(training.launch.launcher, job, state.with_name("processes"), advance)
    return TrainResult(output_dir, outcome["updates"], outcome["history"])


def _described(objective: Objective) -> dict[str, Any]:
    if not is_dataclass(objective):
        raise UserError(
            f"objective {type(objective).__name__} is no dataclass of plain values, as --gpus and --launcher need it"
        )
    kind = type(objective)
    return {"module": kind.__module__, "name": kind.__qualname__, "values": asdict(objective)}


@contextmanager
def _off_gpu(engine: "TransformersEngine") -> Iterator[None]:
    """Inside, the engine's model leaves the GPU to the processes."""
    from harness.engines import memory

    device = engine.model.device
    engine.model.to("cpu")
    memory.free()
    try:
        yield
    finally:
        engine.model.to(device)


def run(launcher: LaunchCommand, job: dict[str, Any], folder: Path, advance: Advance | None = None) -> dict[str, Any]:
    """The outcome of a job. No process is left afterwards.

    Args:
        folder: gets the job, and the logs of the launcher and of each process.

    Raises:
        TrainingDiverged, UserError: that of a process, or when one died.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="harness-") as temporary:  # a shared file system may have no pipes
        pipe = Path(temporary) / "progress"
        os.mkfifo(pipe)
        store.write_text(folder / JOB, json.dumps({**job, "pipe": str(pipe)}, default=str))
        status = _watch(launcher, folder, pipe, advance)
    if status or not (folder / OUTCOME).exists():
        raise _failure(folder, status)
    return store.read_json(folder / OUTCOME)


def _watch(launcher: LaunchCommand, folder: Path, pipe: Path, advance: Advance | None) -> int:
    """Starts the processes and passes on their progress until their launcher ends; its exit status."""
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # to write as well, so that it never ends
    command = [sys.executable, "-m", launcher.module, *launcher.options, "-m", WORKER, str(folder / JOB)]
    with open(folder / LOG, "wb") as log:
        # a session of its own: Ctrl-C is for this process, which ends the others
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
        os.close(reader)  # for the processes the sign to end
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _failure(folder: Path, status: int) -> UserError:
    """What a process told, or how the first one died."""
    from harness.training.base import TrainingDiverged

    for file in sorted(folder.glob("failure-*.json")):
        failure = store.read_json(file)
        return (TrainingDiverged if failure["kind"] == "TrainingDiverged" else UserError)(failure["text"])
    report = _text(folder / LOG)
    deaths = [(int(rank), int(code)) for rank, code in DEATH.findall(report)]
    # the others lose their connection to one that was killed, or are ended by the launcher
    killed = [death for death in deaths if death[1] < 0 and death[1] != -signal.SIGTERM]
    who, log = "the launcher", folder / LOG
    if deaths:
        rank, status = (killed or deaths[-1:])[0]  # torchrun names the root cause last
        who, log = f"process {rank} of the training", folder / f"process-{rank}.log"
    memory = " (is memory short?)" if status == -signal.SIGKILL else ""
    tail = " / ".join([line.strip() for line in _text(log).splitlines() if line.strip()][-TAIL:])
    return UserError(
        f"{who} {how_ended(status)}{memory}; its log {log} "
        + (f"ends with {tail!r}" if tail else "is empty")
        + f"; {GO_ON}"
    )


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
