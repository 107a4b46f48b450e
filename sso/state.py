"""What a trainer's output_dir says of earlier calls: something to resume, and the log of all stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState

from harness.errors import UserError
from harness.files import store
from harness.files.folders import ArmFolder
from sso.evaluation import NAMES


def check_resuming(folder: ArmFolder, asked: str | bool | None) -> None:
    """Check that a call does with earlier results what it was asked to do: training always continues them.

    Args:
        asked: True or the folder asks to resume, False to begin again.

    Raises:
        UserError: when there is nothing to resume, or something that a new training would replace.
    """
    there = any((folder.path / name).exists() for name in ("steps", "training"))
    if asked is False and there:
        raise UserError(
            f"{folder.path} has results of an earlier call, which train() continues: delete it, or choose another "
            "output_dir"
        )
    if isinstance(asked, str) and Path(asked).resolve() != folder.path.resolve():
        raise UserError(
            f"resume_from_checkpoint is {asked!r}, but training resumes in output_dir ({folder.path}): set output_dir "
            "to the folder of the earlier call"
        )
    if asked and not there:
        raise UserError(f"{folder.path} has nothing to resume from: leave out resume_from_checkpoint")


def finished_state(folder: ArmFolder, stages: Sequence[str], loss: float) -> TrainerState:
    """The state after all stages: their logs one after the other, in TRL's names, with steps counted on.

    Args:
        loss: the mean of the last stage, for the row that ends the log of a Trainer.
    """
    rows: list[dict[str, Any]] = []
    done = 0
    for stage in stages:
        logs = [
            {NAMES.get(name, name): value for name, value in row.items()}
            for row in store.read_jsonl(folder.history(stage))
        ]
        evaluations = folder.evaluations(stage)
        if evaluations.exists():
            logs = sorted([*logs, *store.read_jsonl(evaluations)], key=lambda row: row["step"])
        rows += [{**row, "step": row["step"] + done, "stage": stage} for row in logs]
        done = max(row["step"] for row in rows)
    epoch = rows[-1]["epoch"]
    rows.append({"train_loss": loss, "step": done, "epoch": epoch})
    return TrainerState(global_step=done, max_steps=done, epoch=epoch, log_history=rows)
