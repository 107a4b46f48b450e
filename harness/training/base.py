"""What a training is given and what it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import DPOConfig

from harness.errors import UserError
from harness.training.examples import TrainingOptions
from harness.training.processes.command import LaunchCommand
from harness.training.tracking import Tracking


@dataclass(frozen=True)
class ProcessGroup:
    """A training that processes of a launcher do: what they need to know beside the arguments of `trainer.train`."""

    launcher: LaunchCommand
    options: TrainingOptions
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Training:
    """How to train.

    args: from `training_arguments`, or any with data in sequential order; args.output_dir is for the state.
    peft_config: a LoraConfig of peft; its adapters are merged into the model that is saved.
    tracking: where metrics go, beside the history.
    launch: processes that do it, with the options that the other arguments were made from (callbacks stay behind); None
        for this process.
    """

    args: DPOConfig
    peft_config: Any = None
    callbacks: Sequence[TrainerCallback] = ()
    tracking: Tracking | None = None
    launch: ProcessGroup | None = None


@dataclass(frozen=True)
class TrainResult:
    """checkpoint: folder of the trained model. history: one row an update (loss, grad_norm, learning_rate, the
    objective's values)."""

    checkpoint: Path
    updates: int
    history: list[dict]


class TrainingDiverged(UserError):
    """The loss or the gradient is not finite; the batch was saved."""
