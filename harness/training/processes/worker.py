"""One of the processes that train together: python -m harness.training.processes.worker JOB, started by a launcher.

Its output goes to process-RANK.log beside the job, a UserError to failure-RANK.json; the first process writes the
outcome. It ends when the process that made the job does.
"""

import importlib
import os
import select
import sys
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.files import code_files, store
from harness.files.disk import disk_errors
from harness.progress import Advance
from harness.training.processes.command import LaunchCommand
from harness.training.processes.start import OUTCOME

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from harness.training.base import TrainResult
    from harness.training.tracking import Tracking


def main(file: Path) -> None:
    rank = int(os.environ.get("RANK", "0"))
    with open(file.with_name(f"process-{rank}.log"), "ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    job = store.read_json(file)
    pipe = os.open(job["pipe"], os.O_WRONLY | os.O_NONBLOCK)  # fails where nobody reads it any more
    os.set_blocking(pipe, True)
    Thread(target=_end_with_reader, args=(pipe,), daemon=True).start()
    try:
        with disk_errors():
            result = work(job, partial(_report, pipe) if rank == 0 else None)
    except UserError as error:
        store.write_json(file.with_name(f"failure-{rank}.json"), {"kind": type(error).__name__, "text": str(error)})
        os._exit(2)  # others may be waiting for this one; leaving the group would wait for them
    if rank == 0:
        store.write_json(file.with_name(OUTCOME), {"updates": result.updates, "history": result.history})


def _report(pipe: int, count: int) -> None:
    os.write(pipe, b"%d\n" % count)


def _end_with_reader(pipe: int) -> None:
    """End this process once the one that reads the pipe has ended; the folder is then free for the next run."""
    watch = select.poll()
    watch.register(pipe, 0)  # POLLERR and POLLHUP are always reported
    watch.poll()
    os._exit(1)


def work(job: dict[str, Any], advance: Advance | None) -> "TrainResult":
    """Train as the job says, together with the other processes.

    Raises:
        UserError: when memory is short, or the launcher started other processes than it was asked for.
    """
    launcher = LaunchCommand(**job["launcher"])
    launcher.check_honoured(int(os.environ.get("WORLD_SIZE", "1")))
    import numpy as np
    import torch
    from accelerate import PartialState
    from datasets import Dataset

    from harness.engines import memory
    from harness.training.base import Training
    from harness.training.dataset import ExampleData
    from harness.training.examples import TrainingOptions, lora
    from harness.training.reference import ReferenceLogProbs
    from harness.training.trainer import train_here, training_arguments
    from harness.work import Work

    on_gpu = job["on_gpu"]
    options = TrainingOptions(**job["options"])
    if file := job["objective"]["file"]:
        code_files.load_module(Path(file))
    kind = getattr(importlib.import_module(job["objective"]["module"]), job["objective"]["name"])
    engine = _engine(job)
    lengths = np.array(job["lengths"])
    objective = kind(**job["objective"]["values"])
    booked_elsewhere = Work()  # the process that started this one charges the ledger
    data = ExampleData(
        Dataset.from_file(job["examples"]), job["digests"], lengths, objective.sequences, booked_elsewhere
    )
    reference = job["reference"] and ReferenceLogProbs(np.array(job["reference"]), np.zeros(0))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    training = Training(
        training_arguments(options, Path(job["state"]), job["seed"], on_gpu, job["bf16"]),
        lora(options),
        [_strategy_check(launcher)],
        _tracking(job["tracking"]),
        snapshots=job["snapshots"],
    )
    try:
        result = train_here(engine, data, objective, reference, training, Path(job["output"]), advance)
    except (MemoryError, RuntimeError) as error:
        if (reason := memory.shortage(error)) is None:
            raise
        micro = training.args.per_device_train_batch_size
        raise UserError(
            f"memory does not hold the training on {micro} examples per process ({reason}): set a smaller "
            "micro_batch_size, gradient_checkpointing=true or lora_rank, or use a launcher that shards the model"
        ) from None
    PartialState().destroy_process_group()
    return result


def _engine(job: dict[str, Any]) -> Any:
    """The start model on the CPU; the trainer moves it, or this process's part of it, to the device."""
    from harness.engines.logprobs import Reading
    from harness.engines.transformers import TransformersEngine

    dtype = "bfloat16" if job["bf16"] else "float32"  # as the engine of the process that started this one
    engine = TransformersEngine.load(job["model"], "cpu", dtype, trust_remote_code=job["trust_remote_code"])
    engine.reading = Reading(**job["reading"])
    return engine


def _strategy_check(launcher: LaunchCommand) -> "TrainerCallback":
    from accelerate.state import AcceleratorState
    from transformers import TrainerCallback

    class StrategyCheck(TrainerCallback):
        """Checks, once the trainer is made, that the strategy is the one that was asked for."""

        def on_init_end(self, *_: Any, **__: Any) -> None:
            state = AcceleratorState()
            launcher.check_honoured(state.num_processes, state.distributed_type.value)

    return StrategyCheck()


def _tracking(values: dict[str, Any] | None) -> "Tracking | None":
    from harness.training.tracking import Tracking

    return Tracking(**values | {"folder": Path(values["folder"])}) if values else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
