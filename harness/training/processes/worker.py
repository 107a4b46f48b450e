"""One of the processes that train together: python -m harness.training.processes.worker JOB, started by a launcher.

What it prints goes to process-RANK.log beside the job, a mistake of the user to failure-RANK.json; the first process
leaves the outcome. It ends when the process that made the job does.
"""

import importlib
import os
import select
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.files import store
from harness.files.disk import disk_errors
from harness.progress import Advance
from harness.training.processes.command import LaunchCommand
from harness.training.processes.start import OUTCOME

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from harness.training.base import TrainResult


def main(file: Path) -> None:
    rank = int(os.environ.get("RANK", "0"))
    with open(file.with_name(f"process-{rank}.log"), "ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    job = store.read_json(file)
    pipe = os.open(job["pipe"], os.O_WRONLY | os.O_NONBLOCK)  # an error where nobody reads it any more
    os.set_blocking(pipe, True)
    Thread(target=_end_with_reader, args=(pipe,), daemon=True).start()
    try:
        with disk_errors():
            result = work(job, (lambda count: os.write(pipe, b"%d\n" % count)) if rank == 0 else None)
    except UserError as error:
        store.write_json(file.with_name(f"failure-{rank}.json"), {"kind": type(error).__name__, "text": str(error)})
        os._exit(2)  # others may wait for this one: leaving the group would wait for them
    if rank == 0:
        store.write_json(file.with_name(OUTCOME), {"updates": result.updates, "history": result.history})


def _end_with_reader(pipe: int) -> None:
    """Ends this process when the one that reads the pipe has ended: the folder is then free for the next run."""
    watch = select.poll()
    watch.register(pipe, 0)  # errors are told unasked
    watch.poll()
    os._exit(1)


def work(job: dict[str, Any], advance: Advance | None) -> "TrainResult":
    """Trains as the job says, together with the other processes.

    Raises:
        UserError: when memory does not hold it, or the launcher gives other processes than it was asked for.
    """
    launcher = LaunchCommand(**job["launcher"])
    launcher.check_came(int(os.environ.get("WORLD_SIZE", "1")))
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
    kind = getattr(importlib.import_module(job["objective"]["module"]), job["objective"]["name"])
    engine = _engine(job)
    lengths = np.array(job["lengths"])
    objective = kind(**job["objective"]["values"])
    booked_elsewhere = Work()  # by the process that started this one
    data = ExampleData(
        Dataset.from_file(job["examples"]), job["digests"], lengths, objective.sequences, booked_elsewhere
    )
    reference = job["reference"] and ReferenceLogProbs(np.array(job["reference"]), np.zeros(0))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    training = Training(
        training_arguments(options, Path(job["state"]), job["seed"], on_gpu),
        lora(options),
        [_as_asked(launcher)],
        _tracking(job["tracking"]),
    )
    try:
        result = train_here(engine, data, objective, reference, training, Path(job["output"]), advance)
    except (MemoryError, RuntimeError) as error:
        if (reason := memory.shortage(error)) is None:
            raise
        micro = training.args.per_device_train_batch_size
        raise UserError(
            f"memory does not hold the training on {micro} examples in each process ({reason}): set a smaller "
            "micro_batch_size, gradient_checkpointing=true or lora_rank, or a launcher that shards the model"
        ) from None
    PartialState().destroy_process_group()
    return result


def _engine(job: dict[str, Any]) -> Any:
    """The start model, on the CPU: the trainer moves it, or its part of it, to the process's device."""
    from harness.engines.logprobs import Reading
    from harness.engines.transformers import TransformersEngine

    dtype = "bfloat16" if job["on_gpu"] else "float32"  # as engines are loaded on that device
    engine = TransformersEngine.load(job["model"], "cpu", dtype, trust_remote_code=job["trust_remote_code"])
    engine.reading = Reading(**job["reading"])
    return engine


def _as_asked(launcher: LaunchCommand) -> "TrainerCallback":
    from accelerate.state import AcceleratorState
    from transformers import TrainerCallback

    class AsAsked(TrainerCallback):
        """Looks, when the trainer is made, whether the strategy is the one that was asked for."""

        def on_init_end(self, args, state, control, **_) -> None:
            came = AcceleratorState()
            launcher.check_came(came.num_processes, came.distributed_type.value)

    return AsAsked()


def _tracking(values: dict[str, str] | None) -> Any:
    from harness.training.tracking import Tracking

    return Tracking(**values | {"folder": Path(values["folder"])}) if values else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
