"""Metrics of training in a tracker, through transformers' own callbacks, and scores with what they cost; by default in
files of the run folder.

A tracker's own environment variables (WANDB_MODE=online, TRACKIO_SPACE_ID, ...) override these defaults: nothing leaves
the machine unless they ask for it. No step depends on a tracker, and none is needed to read a run.
"""

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from harness.budget import Ledger
from harness.errors import UserError
from harness.files.disk import writing
from harness.files.store import LOCK, safe_name

if TYPE_CHECKING:
    from transformers import TrainingArguments

FOLDER = "tracking"  # its name in a run folder


UNKNOWN = re.compile(r"[^0-9A-Za-z_\-. :/]")  # characters that MLflow takes in no name
PACKAGES = {"mlflow": "'harness[mlflow]'"}  # tracker -> what pip installs, where that is not its name


@dataclass(frozen=True)
class Tracking:
    """A run of a tracker.

    tracker: one of TRACKERS.
    project: the experiment's name.
    run: the arm and the stage, or the arm and "scores".
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
        if self.tracker == "mlflow":
            return {
                "MLFLOW_TRACKING_URI": self.folder.as_uri(),
                "MLFLOW_EXPERIMENT_NAME": self.project,
                "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 wants a database instead, which its small package lacks
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "GIT_PYTHON_REFRESH": "quiet",  # it looks for git, and warns where there is none
            }
        return {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self.folder),
            "WANDB_PROJECT": self.project,
            "WANDB_CONSOLE": "off",  # do not capture what is printed
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Inside, the tracker finds its folder, and prints on standard error."""
        added = {name: value for name, value in self._variables().items() if name not in os.environ}
        os.environ.update(added)
        try:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            if self.tracker == "mlflow":
                import mlflow

                with FileLock(self.folder / LOCK):  # processes that start together would each make the experiment
                    mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
            with redirect_stdout(sys.stderr):  # trackio prints where its files are
                yield
        finally:
            for name in added:
                del os.environ[name]

    @contextmanager
    def started(self, args: "TrainingArguments") -> Iterator["TrainingArguments"]:
        """Yield the arguments of a trainer that is made and trains inside the block; each training is its own run."""
        with self._surroundings():
            args = copy.copy(args)
            args.report_to, args.run_name, args.project = [self.tracker], self.run, self.project
            try:
                yield args
            finally:
                self._end()

    def _end(self) -> None:
        """End the run of a training, also of one that failed: the next one would continue it."""
        if self.tracker == "wandb":
            import wandb

            wandb.finish()
        elif self.tracker == "mlflow":
            import mlflow

            mlflow.end_run()

    def report(self, rows: "Rows") -> None:
        """Send (step, {name: value}) rows, in the order of the steps."""
        with self._surroundings():
            REPORTERS[self.tracker](self.project, self.run, rows)


Rows = Sequence[tuple[int, Mapping[str, float]]]


def _to_tensorboard(project: str, run: str, rows: Rows) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
        for step, values in rows:
            for name, value in values.items():
                writer.add_scalar(name, value, step)


def _to_trackio(project: str, run: str, rows: Rows) -> None:
    import trackio

    trackio.init(project=project, name=run, resume="allow", embed=False)
    for step, values in rows:
        trackio.log(dict(values), step=step)
    trackio.finish()


def _to_wandb(project: str, run: str, rows: Rows) -> None:
    import wandb

    with wandb.init(name=run) as started:  # the project is in WANDB_PROJECT
        for step, values in rows:
            started.log(dict(values), step=step)


def _to_mlflow(project: str, run: str, rows: Rows) -> None:
    import mlflow

    with mlflow.start_run(run_name=run):
        for step, values in rows:
            mlflow.log_metrics({UNKNOWN.sub("_", name): value for name, value in values.items()}, step=step)


REPORTERS: dict[str, Callable[[str, str, Rows], None]] = {
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
}


def scores_and_spending(scores: Mapping[str, float | None], ledger: Ledger) -> dict[str, float]:
    """What a tracker gets of one policy: the score of each benchmark that has one, and what was spent, by role."""
    spent = {f"ledger/{role}_flops": amount.flops for role, amount in ledger.roles.items()}
    total = ledger.total
    names = ("flops", "wasted_flops", "prompt_tokens", "generated_tokens", "trained_tokens")
    known = {f"score/{name}": value for name, value in scores.items() if value is not None}
    return {**known, **spent, **{f"ledger/{name}": float(getattr(total, name)) for name in names}}


def tracking(tracker: str | None, project: str, run: str, root: Path) -> Tracking | None:
    """A run of the tracker, with its files in the run folder `root`; None where no tracker is asked for."""
    return Tracking(tracker, project, run, root.resolve() / FOLDER / tracker) if tracker else None


def check_tracker(tracker: str | None) -> None:
    """
    Raises:
        UserError: when the requested tracker is not installed.
    """
    if tracker and find_spec(tracker) is None:
        package = PACKAGES.get(tracker, tracker)
        raise UserError(f"{tracker} is not installed: pip install {package}, or leave out --report-to")
