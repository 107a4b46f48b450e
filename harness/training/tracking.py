"""Metrics of training in a tracker, through transformers' own callbacks; by default in files of the run folder.

A tracker's own environment variables (WANDB_MODE=online, TRACKIO_SPACE_ID, ...) override these defaults: nothing leaves
the machine unless they ask for it. No step depends on a tracker, and none is needed to read a run.
"""

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.files.disk import writing
from harness.files.store import safe_name

if TYPE_CHECKING:
    from transformers import TrainingArguments

FOLDER = "tracking"  # its name in a run folder


@dataclass(frozen=True)
class Tracking:
    """Where the metrics of one training go.

    tracker: one of TRACKERS.
    project: the experiment's name.
    run: the arm and the stage.
    folder: where the tracker's files go.
    """

    tracker: str
    project: str
    run: str
    folder: Path

    def _variables(self) -> dict[str, str]:
        """Defaults of the tracker's own environment variables."""
        if self.tracker == "tensorboard":
            return {"TENSORBOARD_LOGGING_DIR": str(self.folder / safe_name(self.run))}
        if self.tracker == "trackio":
            return {"TRACKIO_DIR": str(self.folder)}
        return {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self.folder),
            "WANDB_PROJECT": self.project,
            "WANDB_CONSOLE": "off",  # do not capture what is printed
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }

    @contextmanager
    def started(self, args: "TrainingArguments") -> Iterator["TrainingArguments"]:
        """Yield the arguments of a trainer that is made and trains inside the block; each training is its own run."""
        added = {name: value for name, value in self._variables().items() if name not in os.environ}
        os.environ.update(added)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        args = copy.copy(args)
        args.report_to, args.run_name, args.project = [self.tracker], self.run, self.project
        try:
            with redirect_stdout(sys.stderr):  # trackio prints where its files are
                yield args
        finally:
            if self.tracker == "wandb":  # else the next training would continue this run
                import wandb

                wandb.finish()
            for name in added:
                del os.environ[name]


def tracking(tracker: str | None, project: str, run: str, root: Path) -> Tracking | None:
    """The tracking of a training in the run folder `root`; None where no tracker is asked for."""
    return Tracking(tracker, project, run, root.resolve() / FOLDER / tracker) if tracker else None


def check_tracker(tracker: str | None) -> None:
    """
    Raises:
        UserError: when the requested tracker is not installed.
    """
    if tracker and find_spec(tracker) is None:
        raise UserError(f"{tracker} is not installed: pip install {tracker}, or leave out --report-to")
