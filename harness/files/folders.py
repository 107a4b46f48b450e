"""Where each file of a run is: the folder of a run, and the folder of an arm (a method with a seed) in it.

These are the only places that spell the names; docs/run-folder.md says what the files hold.
"""

from collections.abc import Iterator
from pathlib import Path

from harness.errors import UserError
from harness.files.marks import Folder

RUNS = "runs"  # folder of runs, in a folder of results
HEALTH, SCORES, ALONG = "health", "scores", "along"  # folders of an arm
CHECKPOINT = "checkpoint"  # the step that makes a checkpoint along the way
JSON, ROWS = ".json", ".jsonl"


def file_name(benchmark: str) -> str:
    """A benchmark's name as part of the names of files and steps: not every system has ":" in the name of a file."""
    return benchmark.replace(":", ".")


class ArmFolder(Folder):
    """What training and scoring one model leaves: an arm of a run, or a trial of tuning."""

    def files(self, step: str) -> dict[str, str]:
        """The files of a finished step, path below this folder -> SHA-256.

        Raises:
            UserError: when the step is not finished.
        """
        if (mark := self.mark(step)) is None:
            raise UserError(f"{self.path}: step {step} is not finished: the same harness run continues it")
        return mark.files

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def seconds(self) -> Path:
        """Wall time of training and scoring."""
        return self.path / "seconds.json"

    def preferences(self, stage: str) -> Path:
        """The examples that a stage is trained on."""
        return self.path / "preferences" / f"{stage}{ROWS}"

    def all_preferences(self) -> list[Path]:
        return sorted((self.path / "preferences").glob(f"*{ROWS}"))

    def asked(self, stage: str) -> Path:
        """What models were asked while the examples of a stage were made."""
        return self.path / "asked" / f"{stage}{ROWS}"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, stage: str) -> Path:
        return self.checkpoints / stage

    def history(self, stage: str) -> Path:
        """Loss, gradient norm and so on of each update of a stage."""
        return self.path / "training" / f"{stage}{ROWS}"

    def histories(self) -> list[Path]:
        return sorted((self.path / "training").glob(f"*{ROWS}"))

    def training_work(self, stage: str) -> Path:
        """Files that a stage needs only until it is finished."""
        return self.path / "training" / stage

    def evaluations(self, stage: str) -> Path:
        """Loss and metrics on held-out examples while a stage trained, where there were any."""
        return self.path / "evaluations" / f"{stage}{ROWS}"

    def evaluation_ledger(self, stage: str) -> Path:
        """What those evaluations spent, which is no part of the budget."""
        return self.path / "evaluations" / f"{stage}-ledger{JSON}"

    def health(self, stage: str) -> Path:
        return self.path / HEALTH / f"{stage}{JSON}"

    def all_health(self) -> list[Path]:
        return sorted((self.path / HEALTH).glob(f"*{JSON}"))

    def along(self, fraction: float) -> "ArmFolder":
        """The checkpoint at a fraction of the budget, and its scores."""
        return ArmFolder(self.path / ALONG / str(fraction))

    def all_along(self) -> list["ArmFolder"]:
        return [ArmFolder(path) for path in sorted((self.path / ALONG).glob("*/"))]

    @property
    def answering_work(self) -> Path:
        """Completions that are needed only until the benchmarks are answered."""
        return self.path / "answering"

    def samples(self, benchmark: str) -> Path:
        return self.path / "samples" / f"{file_name(benchmark)}{ROWS}"

    def judgments(self, benchmark: str) -> Path:
        return self.path / "judgments" / f"{file_name(benchmark)}{ROWS}"

    def score(self, benchmark: str) -> Path:
        return self.path / SCORES / f"{file_name(benchmark)}{JSON}"


class RunFolder(Folder):
    """One run: its experiment, its arms and trials, and its tables."""

    @property
    def experiment(self) -> Path:
        """Every option of the experiment, resolved."""
        return self.path / "experiment.yaml"

    @property
    def versions(self) -> Path:
        """The format of the folder, the packages and the machine."""
        return self.path / "versions.json"

    @property
    def index(self) -> Path:
        """Every file of a finished run with its SHA-256."""
        return self.path / "index.json"

    @property
    def table_json(self) -> Path:
        return self.path / "table.json"

    @property
    def table_markdown(self) -> Path:
        return self.path / "table.md"

    @property
    def data(self) -> Path:
        """The testbed's suites."""
        return self.path / "data"

    @property
    def reference(self) -> Path:
        """Log-probabilities of reference models."""
        return self.path / "reference"

    @property
    def judge_log(self) -> Path:
        """Folder of the judge's requests and replies."""
        return self.path / "judge"

    @property
    def model_log(self) -> Path:
        """Folder of what a model behind an endpoint was asked."""
        return self.path / "model"

    @property
    def arms(self) -> Path:
        return self.path / "arms"

    def arm(self, method: str, seed: int) -> ArmFolder:
        return ArmFolder(self.folder("arms").folder(f"{method}-seed{seed}").path)

    def arm_folders(self) -> list[ArmFolder]:
        """The arms that are there, whether the experiment has them or not."""
        return [ArmFolder(path) for path in sorted(self.arms.glob("*/"))]

    @property
    def tuning(self) -> Path:
        return self.path / "tuning"

    @property
    def trials(self) -> Path:
        """Every trial of tuning with its score and cost."""
        return self.tuning / "trials.json"

    def tuning_ledger(self, method: str) -> Path:
        """What all trials of a method spent."""
        return self.tuning / method / "ledger.json"

    def trial(self, method: str, number: int) -> ArmFolder:
        return ArmFolder(self.folder("tuning").folder(method).folder(f"trial-{number}").path)

    def trial_folders(self) -> list[ArmFolder]:
        return [ArmFolder(path) for path in sorted(self.tuning.glob("*/*/"))]

    def is_trial(self, folder: Folder) -> bool:
        return folder.path.is_relative_to(self.tuning)

    def step_folders(self) -> Iterator[ArmFolder]:
        """The arms, their checkpoints along the way and the trials that have a finished step."""
        arms = self.arm_folders()
        along = [checkpoint for arm in arms for checkpoint in arm.all_along()]
        return (each for each in [*arms, *along, *self.trial_folders()] if each.marks.is_dir())

    def loose_json(self) -> list[Path]:
        """JSON files of the run and of its arms that no mark names, and the ledgers of tuning."""
        ledgers = self.tuning.rglob("ledger.json")
        return sorted([*self.path.glob(f"*{JSON}"), *self.arms.glob(f"*/*{JSON}"), *ledgers])

    def references(self) -> list[Path]:
        """Files of log-probabilities of reference models."""
        return sorted(self.reference.rglob(f"*{ROWS}"))

    def rejudged(self, judge: str) -> "RunFolder":
        """Judgments of another judge, laid out like a run."""
        return RunFolder(self.folder("rejudged").folder(judge).path)


def run_folder(results: Path, name: str) -> RunFolder:
    """The folder of a run below a folder of results.

    Raises:
        UserError: when the name cannot be that of a folder.
    """
    return RunFolder(Folder(results).folder(RUNS).folder(name).path)
