"""A run folder whose arms are finished: its experiment, its scores, and its table."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.benchmarks.base import NO_PAIRS, Score, step_names
from harness.benchmarks.loading import titles
from harness.budget import Ledger
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files import code_files, store, typed
from harness.files.folders import HEALTH, SCORES, ArmFolder, RunFolder
from harness.files.marks import Mark, read_mark
from harness.models.folder import TESTBED
from harness.results import tuning_record
from harness.tables import to_json, to_markdown
from harness.tables.build import build
from harness.tables.schema import ResultRow, Table

FORMAT = 3  # of a run folder
MACHINE = ("processor", "cores", "memory_gib", "gpu")  # fields of versions.json, of the last call that wrote it
CODE_FILES = "code files"  # field of versions.json (`harness.experiment.registry.files_of`)
SINCE = {3: "the digest of a step's code names modules by their new places"}  # what each format changed
FINISH = "finish the run first (harness run with the same options)"


def check_format(path: Path) -> None:
    """
    Raises:
        UserError: when a run folder was written in another format.
    """
    folder = RunFolder(path)
    if folder.experiment.exists():
        written = store.read_json(folder.versions).get("format") if folder.versions.exists() else None
        if written != FORMAT:
            since = f" (since format {FORMAT}, {SINCE[FORMAT]})" if written == FORMAT - 1 else ""
            raise UserError(
                f"{path} has format {written}, and this harness reads format {FORMAT}{since}: its table.md and "
                "table.json can still be read; to continue there, use the harness that made it (versions.json), or "
                "run it again under another --name"
            )


def read_experiment(path: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        UserError: when the folder is not a run folder, or has another format.
    """
    file = RunFolder(path).experiment
    if not file.exists():
        raise UserError(f"{path} is not a run folder: it has no {file.name}")
    check_format(path)
    values = typed.load(file)
    for kind in registry.GROUPS:
        _check_files(values.get(f"{kind}s"), path)
    experiment: Experiment = typed.build(Experiment, {"ledger": "nominal"} | values, "option")
    return experiment  # files without "ledger" are older than any rule but "nominal"


def _check_files(entries: Any, run: Path) -> None:
    """
    Raises:
        UserError: when a method or benchmark is a file in the run folder: reading results must not run what came with
            them.
    """
    for text in entries if isinstance(entries, list) else ():
        target = str(text).rpartition("=")[2]
        if code_files.is_reference(target) and code_files.path_of(target).resolve().is_relative_to(run.resolve()):
            raise UserError(
                f"{run} names code in its own folder ({target}), which is not run: if you trust the file, move it "
                f"elsewhere and name its new place in {RunFolder(run).experiment}"
            )


@dataclass
class Reader:
    """Reads stored JSON. Files with the same content (the base model's in many runs) are parsed once, and shared."""

    _known: dict[bytes, Any] = field(default_factory=dict)
    _scores: dict[int, Score] = field(default_factory=dict)

    def json(self, file: Path) -> Any:
        """The content of a file; do not change it: others share it."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{file} is missing: {FINISH}") from None
        if content not in self._known:
            try:
                self._known[content] = json.loads(content)
            except ValueError:
                return store.read_json(file)  # raises an error with the line
        return self._known[content]

    def mark(self, arm: ArmFolder, step: str) -> Mark | None:
        """The mark of a finished step of an arm; None when it is not finished."""
        file = arm.mark_file(step)
        return read_mark(file, self.json) if file.exists() else None

    def score(self, file: Path) -> Score:
        """The score in a file: one object for all files of equal content."""
        values = self.json(file)
        if id(values) not in self._scores:
            try:
                self._scores[id(values)] = Score(**{"clusters": None} | values)
            except TypeError:
                raise UserError(f"{file}: is not a valid score; delete the file to compute it again") from None
        return self._scores[id(values)]

    def ledger(self, file: Path) -> Ledger:
        try:
            return Ledger.from_dict(self.json(file))
        except (TypeError, KeyError, AttributeError):
            raise UserError(f"{file}: is not a valid ledger: put the file of the run back") from None


@dataclass(frozen=True)
class StoredRun:
    """A finished run.

    rows: its arms, in the order of the experiment. reader: with which it was read.
    """

    path: Path
    experiment: Experiment
    rows: tuple[ResultRow, ...]
    reader: Reader

    @classmethod
    def read(cls, path: Path, reader: Reader | None = None) -> "StoredRun":
        """
        Args:
            reader: shared by runs that are read together.

        Raises:
            UserError: when the folder is not a run folder, or the run is not finished.
        """
        experiment, reader = read_experiment(path), reader or Reader()
        folder = RunFolder(path)
        rows = tuple(_row(experiment, name, folder, reader) for name in experiment.arms())
        return cls(path, experiment, rows, reader)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    @property
    def testbed(self) -> bool:
        """Whether its scores are of the embedded suites."""
        return self.experiment.data_dir == TESTBED

    @property
    def versions(self) -> dict[str, Any]:
        """Format, packages and machine of the last call that wrote in the folder."""
        versions: dict[str, Any] = store.read_json(self.folder.versions)
        return versions

    def arms(self, seed: int) -> list[ArmFolder]:
        return [self.folder.arm(name, seed) for name in self.experiment.arms()]

    def depends_on(self, arm: ArmFolder, step: str) -> dict[str, Any] | None:
        """What a step of an arm was computed from; None when it is not finished."""
        mark = self.reader.mark(arm, step)
        return mark.depends_on if mark else None

    def table(self, baseline: str = "base") -> Table:
        """
        Raises:
            UserError: when the run has no such baseline.
        """
        return build(
            self.rows,
            baseline,
            title=self.experiment.name,
            testbed=self.testbed,
            titles=titles(self.experiment),
            limit=self.experiment.limit,
            remarks=[
                *_along(self.experiment),
                *_options(self),
                *_code_files(self.versions),
                *_machine(self.versions),
                *_dtype(self.experiment),
                *_not_shown(self),
            ],
            command=self.experiment.command,
        )


def table_of(path: Path, baseline: str = "base") -> Table:
    """The table of a run folder, computed from its stored scores."""
    return StoredRun.read(path).table(baseline)


def _along(experiment: Experiment) -> list[str]:
    """A remark on the scores that the table does not show."""
    if not experiment.fractions:
        return []
    fractions = ", ".join(f"{each:g}" for each in experiment.fractions)
    return [f"Scores are those at the end; harness table --checkpoints shows those at {fractions} of the budget."]


def _options(run: StoredRun) -> list[str]:
    """All options of each trained method, those with defaults and those that tuning chose included."""
    lines = []
    for arm in run.experiment.arms():
        if run.experiment.stages(arm):
            options = vars(run.experiment.method_options(arm)) | (tuning_record.choice(run.path, arm) or {})
            listed = ", ".join(f"{name} {_plain(value)}" for name, value in options.items() if value is not None)
            lines.append(f"Options of {arm}: {listed}.")
    return lines


def _code_files(versions: dict[str, Any]) -> list[str]:
    """A remark on each method and benchmark that is a class in a file."""
    return [
        f"{name} is the class {made['class']} (SHA-256 of the file: {made['sha256']})."
        for name, made in versions.get(CODE_FILES, {}).items()
    ]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _machine(versions: dict[str, Any]) -> list[str]:
    if "processor" not in versions:
        return []
    gpu = f"{versions['gpu']}; " if "gpu" in versions else ""
    return [f"Machine: {gpu}{versions['processor']}, {versions['cores']} cores, {versions['memory_gib']:g} GiB."]


def _dtype(experiment: Experiment) -> list[str]:
    """A remark on numbers that the device would not choose."""
    return [] if experiment.dtype == "auto" else [f"Models compute in {experiment.dtype} (--dtype)."]


def _not_shown(run: StoredRun) -> list[str]:
    """A remark on arms that are in the folder but not in its experiment."""
    shown = {arm.path.name for seed in range(run.experiment.seeds) for arm in run.arms(seed)}
    others = [arm.path.name for arm in run.folder.arm_folders() if arm.path.name not in shown]
    if not others:
        return []
    return [f"In the folder but not in this table, because unfinished or made in another way: {', '.join(others)}."]


def write_table(path: Path) -> Table:
    """The table of a run folder, written there as table.md and table.json."""
    table, folder = table_of(path), RunFolder(path)
    store.write_text(folder.table_markdown, to_markdown(table))
    store.write_json(folder.table_json, to_json(table))
    return table


def check_there(arm: ArmFolder, mark: Mark, kind: str) -> None:
    """Check that the files of a finished step are still there: a table without one would be of other scores.

    Args:
        kind: SCORES or HEALTH, the folder of the files to check; others need not be kept with a run.

    Raises:
        UserError: when one was deleted.
    """
    for name in mark.files:
        if name.startswith(f"{kind}/") and not (arm / name).exists():
            raise UserError(
                f"{arm / name} was deleted after its step had finished: put it back, or recompute it from the stored "
                "answers with the same harness run"
            )


def _row(experiment: Experiment, name: str, folder: RunFolder, reader: Reader) -> ResultRow:
    scores: dict[str, dict[int, Score]] = {}
    ledgers: dict[int, Ledger] = {}
    seconds: dict[int, dict[str, float]] = {}
    warnings: dict[str, list[int]] = {}
    for seed in range(experiment.seeds):
        arm = folder.arm(name, seed)
        for benchmark in experiment.benchmark_names():
            mark = reader.mark(arm, step := step_names(benchmark)[1])
            if mark is None:
                raise UserError(f"{arm.path} has no mark of step {step}, so that score is not finished: {FINISH}")
            check_there(arm, mark, SCORES)
            if mark.depends_on == NO_PAIRS:
                continue
            scores.setdefault(benchmark, {})[seed] = reader.score(arm.score(benchmark))
        ledgers[seed] = reader.ledger(arm.ledger)
        seconds[seed] = reader.json(arm.seconds)
        for stage in experiment.stages(name):
            if mark := reader.mark(arm, stage.name):
                check_there(arm, mark, HEALTH)
        for file in arm.all_health():
            for warning in reader.json(file).get("warnings", []):
                warnings.setdefault(f"{file.stem}: {warning}", []).append(seed)
    method = experiment.method(name)
    return ResultRow(
        name,
        method.supervision(experiment.method_options(name)),
        scores,
        ledgers,
        seconds,
        tuning_record.of_row(folder.path, name),
        warnings,
        trained_as=method.name,
        control_of=getattr(method, "control_of", None),
    )
