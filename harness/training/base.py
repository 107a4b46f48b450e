"""What a training is given and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainingArguments

from harness.errors import CannotTrain
from harness.training.examples import TrainingOptions
from harness.training.processes.command import LaunchCommand
from harness.training.tracking import Tracking

if TYPE_CHECKING:
    from harness.training.evaluation import Evaluation


@dataclass
class PreferenceArguments(TrainingArguments):
    """Arguments of transformers' Trainer, with what training on examples adds.

    router_aux_loss_coef: weight of the load-balancing loss of a mixture of experts; 0 is off.
    """

    router_aux_loss_coef: float = 0.0


@dataclass(frozen=True)
class ProcessGroup:
    """Several processes that train together, started by a command.

    options: those that the training's other arguments were made from; each process makes its own from them.
    """

    command: LaunchCommand
    options: TrainingOptions
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Training:
    """How to train.

    args: from `training_arguments`, or any with data in sequential order; the state is saved in args.output_dir.
    peft_config: a LoraConfig of peft; its adapters are merged into the model that is saved.
    callbacks: called in this process only: `processes` train without them.
    tracking: where metrics go beside the history.
    processes: the processes that train; None trains in this one.
    evaluation: held-out examples, read when args.eval_strategy says so.
    names: what values are called where callbacks and trackers see them, for those with another name there.
    snapshots: updates after which the model is saved too (`harness.training.copies.snapshot` says where).
    """

    args: PreferenceArguments
    peft_config: Any = None
    callbacks: Sequence[TrainerCallback] = ()
    tracking: Tracking | None = None
    processes: ProcessGroup | None = None
    evaluation: "Evaluation | None" = None
    names: Mapping[str, str] = field(default_factory=dict)
    snapshots: Sequence[int] = ()


@dataclass(frozen=True)
class TrainResult:
    """A trained model.

    checkpoint: its folder.
    history: one row per update (loss, grad_norm, learning_rate, the objective's values).
    evaluations: one row per evaluation ("eval_loss" and so on, with the step).
    """

    checkpoint: Path
    updates: int
    history: list[dict[str, Any]]
    evaluations: list[dict[str, Any]] = field(default_factory=list)


class TrainingDiverged(CannotTrain):
    """The loss or the gradient is not finite; the batch was saved."""
