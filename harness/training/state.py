"""The state of a training on disk: saved as often as that is cheap, and found after an interruption."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from harness.files import store
from harness.files.disk import sync

SHARE = 0.05  # share of the time that saving may take
SHORTEST = 1.0  # seconds between two states
MARK = "complete.json"  # written last: a folder without it is incomplete


@dataclass(frozen=True)
class State:
    """A saved state: its folder, and how many updates are done."""

    folder: Path
    step: int


class SaveState(TrainerCallback):
    """Saves the state of training often enough that saving takes at most SHARE of the time."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._ended = self._began = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ended = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = time.perf_counter() - self._ended > max(SHORTEST, self._cost / SHARE)
        if args.world_size > 1:
            due = broadcast_object_list([due])[0]
        if due and state.global_step < state.max_steps:
            self._began = time.perf_counter()
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:  # each process saves a part
            PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = state_folder(Path(args.output_dir), state.global_step)
            sync(folder)
            store.write_json(folder / MARK, {"step": state.global_step})
            for other in _folders(Path(args.output_dir)):
                if other != folder:
                    shutil.rmtree(other)
        self._ended = time.perf_counter()
        self._cost = self._ended - self._began


def last_state(output_dir: Path) -> State | None:
    """The last complete state in a trainer's folder; incomplete ones are removed."""
    states = []
    for folder in _folders(output_dir):
        if (folder / MARK).exists():
            states.append(State(folder, store.read_json(folder / MARK)["step"]))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return max(states, key=lambda state: state.step, default=None)


def state_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _folders(output_dir: Path) -> list[Path]:
    return list(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
