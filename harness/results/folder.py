"""What a run folder holds when its arms are finished: its experiment, its scores, and its table."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.benchmarks.base import NO_PAIRS, Score, step_names
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files import store, typed
from harness.files.marks import Folder, Mark, read_mark
from harness.models.folder import TESTBED
from harness.results import tuning_record
from harness.tables import to_json, to_markdown
from harness.tables.build import build
from harness.tables.schema import ResultRow, Table

FORMAT = 3  # of a run folder
MACHINE = ("processor", "cores", "memory_gib", "gpu")  # in versions.json, of the last call that wrote there
SINCE = {  # what a format has that the one before had not
    3: "the digest of a step's code names modules by their new places",
}


def check_format(path: Path) -> None:
    """
    Raises:
        UserError: when a run folder was written in another format.
    """
    if (path / "experiment.yaml").exists():
        found = store.read_json(path / "versions.json").get("format") if (path / "versions.json").exists() else None
        if found != FORMAT:
            since = f" (since format {FORMAT}, {SINCE[FORMAT]})" if found == FORMAT - 1 else ""
            raise UserError(
                f"{path} has format {found}, and this harness reads format {FORMAT}{since}: its table.md and "
                "table.json can still be read; to go on there, use the harness that made it (versions.json), or run it "
                "again under another --name"
            )


def read_experiment(path: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        UserError: when the folder holds none.
    """
    file = path / "experiment.yaml"
    if not file.exists():
        raise UserError(f"{path} is no run folder: it has no experiment.yaml")
    check_format(path)
    return typed.build(Experiment, {"ledger": "nominal"} | typed.load(file), "option")  # there was no other rule


@dataclass
class Reader:
    """Reads stored JSON; files with the same content (the base model's in many runs) are parsed once, and shared."""

    _known: dict[bytes, Any] = field(default_factory=dict)
    _scores: dict[int, Score] = field(default_factory=dict)

    def json(self, file: Path) -> Any:
        """What a file holds; never to be changed."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{file} is missing: finish the run first (harness run with the same options)") from None
        if content not in self._known:
            try:
                self._known[content] = json.loads(content)
            except ValueError:
                return store.read_json(file)  # which says what is wrong with it
        return self._known[content]

    def mark(self, arm: Folder, step: str) -> Mark | None:
        """The mark of a finished step of an arm; None where it is not finished."""
        file = arm / "steps" / f"{step}.json"
        return read_mark(file, self.json) if file.exists() else None

    def score(self, file: Path) -> Score:
        values = self.json(file)
        if id(values) not in self._scores:
            try:
                self._scores[id(values)] = Score(**{"clusters": None} | values)
            except TypeError:
                raise UserError(f"{file}: is no score; delete the file to make it again") from None
        return self._scores[id(values)]


@dataclass(frozen=True)
class StoredRun:
    """A finished run. name: that of its folder."""

    path: Path
    experiment: Experiment
    rows: tuple[ResultRow, ...]
    reader: Reader

    @classmethod
    def read(cls, path: Path, reader: Reader | None = None) -> "StoredRun":
        """
        Raises:
            UserError: when the folder holds no run, or one that is not finished.
        """
        experiment, reader = read_experiment(path), reader or Reader()
        return cls(path, experiment, tuple(_row(experiment, name, path, reader) for name in experiment.arms()), reader)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def testbed(self) -> bool:
        """Whether its scores are of the embedded suites."""
        return self.experiment.data_dir == TESTBED

    def arms(self, seed: int) -> list[Folder]:
        return [_arm(self.path, name, seed) for name in self.experiment.arms()]

    def depends_on(self, arm: Folder, step: str) -> dict[str, Any] | None:
        """What a step of an arm was made from; None where it is not finished."""
        mark = self.reader.mark(arm, step)
        return mark.depends_on if mark else None


def table_of(path: Path, baseline: str = "base") -> Table:
    """The table of a run folder from its stored scores."""
    run = StoredRun.read(path)
    return build(
        run.rows,
        baseline,
        title=run.experiment.name,
        testbed=run.testbed,
        titles=titles(run.experiment.benchmarks),
        limit=run.experiment.limit,
        remarks=[*_options(run), *_machine(path), *_not_shown(run)],
        command=run.experiment.command,
    )


def _options(run: StoredRun) -> list[str]:
    """All options of each trained method, defaults and what tuning chose included."""
    lines = []
    for arm in run.experiment.arms():
        if run.experiment.stages(arm):
            own = vars(run.experiment.method_options(arm)) | (tuning_record.choice(run.path, arm) or {})
            shown = ", ".join(f"{name} {_plain(value)}" for name, value in own.items() if value is not None)
            lines.append(f"Options of {arm}: {shown}.")
    return lines


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _machine(path: Path) -> list[str]:
    found = store.read_json(path / "versions.json")
    if "processor" not in found:
        return []
    gpu = f"{found['gpu']}; " if "gpu" in found else ""
    return [f"Machine: {gpu}{found['processor']}, {found['cores']} cores, {found['memory_gib']:g} GiB."]


def _not_shown(run: StoredRun) -> list[str]:
    """What is to be said of arms (a method with a seed) that are in the folder and not in its experiment."""
    shown = {arm.path.name for seed in range(run.experiment.seeds) for arm in run.arms(seed)}
    others = sorted(place.name for place in (run.path / "arms").glob("*/") if place.name not in shown)
    if not others:
        return []
    return [f"In the folder and not in this table, unfinished or made in another way: {', '.join(others)}."]


def titles(benchmarks: tuple[str, ...]) -> dict[str, str]:
    return {name: registry.load("benchmark", name).title for name in benchmarks}


def write_table(path: Path) -> Table:
    """The table of a run folder, written there as table.md and table.json."""
    table = table_of(path)
    store.write_text(path / "table.md", to_markdown(table))
    store.write_json(path / "table.json", to_json(table))
    return table


def _arm(path: Path, name: str, seed: int) -> Folder:
    return Folder(path).folder("arms").folder(f"{name}-seed{seed}")


def check_there(arm: Folder, mark: Mark, kind: str) -> None:
    """
    Args:
        kind: folder of the files that matter: others need not be kept with a run.

    Raises:
        UserError: when a file that a finished step left is gone: a table without it would be one of other scores.
    """
    for name in mark.files:
        if name.startswith(f"{kind}/") and not (arm / name).exists():
            raise UserError(
                f"{arm / name} was deleted after its step had finished: put it back, or make it again from the stored "
                "answers with the same harness run"
            )


def _row(experiment: Experiment, name: str, path: Path, reader: Reader) -> ResultRow:
    scores: dict[str, dict[int, Score]] = {}
    ledgers, seconds, warnings = {}, {}, {}
    for seed in range(experiment.seeds):
        arm = _arm(path, name, seed)
        for benchmark in experiment.benchmarks:
            file = arm / "scores" / f"{benchmark}.json"
            mark = reader.mark(arm, step := step_names(benchmark)[1])
            if mark is None:
                raise UserError(
                    f"{arm.path} has no mark of step {step}, so that score is not finished: finish the run first "
                    "(harness run with the same options)"
                )
            check_there(arm, mark, "scores")
            if mark.depends_on == NO_PAIRS:
                continue
            scores.setdefault(benchmark, {})[seed] = reader.score(file)
        ledgers[seed] = reader.json(arm / "ledger.json")
        seconds[seed] = reader.json(arm / "seconds.json")
        for stage in experiment.stages(name):
            if mark := reader.mark(arm, stage.name):
                check_there(arm, mark, "health")
        for file in sorted((arm / "health").glob("*.json")):
            for warning in reader.json(file).get("warnings", []):
                warnings.setdefault(f"{file.stem}: {warning}", []).append(seed)
    method = experiment.method(name)
    supervision = method.supervision(experiment.method_options(name))
    return ResultRow(name, supervision, scores, ledgers, seconds, tuning_record.of_row(path, name), warnings)
