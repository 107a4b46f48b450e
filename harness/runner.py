"""Runs an experiment: its arms, one after the other or in parallel processes, then its table."""

import platform
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness import fingerprints, pipeline, registry, store
from harness.arm import Arm
from harness.benchmarks.base import Score
from harness.comparison import ResultRow, Table
from harness.comparison import build as build_table
from harness.errors import UserError
from harness.experiment import TESTBED, Experiment, build, load
from harness.faults import stoppable
from harness.inputs import check_inputs, load_inputs, model_digests
from harness.models import fetch
from harness.parallel import run_arms
from harness.scoring import SCORERS, step_names
from harness.steps import Folder
from harness.tables import to_json, to_markdown
from harness.trials import FILE
from harness.tuning import check_arms, trials_of, tune

INDEX = "index.json"
FORMAT = 1  # of a run folder
PACKAGES = ("harness", *pipeline.PACKAGES, *SCORERS)


def run(experiment: Experiment, results: Path, jobs: int = 1, restart_from: str | None = None) -> Table:
    """Train, answer, judge, score and compare; what is already done in the folder is reused.

    Args:
        restart_from: a step that is done anew with all that follows from it, in every arm that has it, or as
            METHOD/STEP in those of one method. Trials of tuning that can be reused are.

    Raises:
        UserError: for anything the user can mend; nothing that was finished is lost.
        Stopped: for SIGINT and SIGTERM.
    """
    root = Folder(results).folder("runs").folder(experiment.name)
    check_format(root.path)
    if not experiment.model_url:
        fetch(experiment.model)
    key = _key(experiment)
    if not restart_from and _finished(root, key):
        return write_table(root.path)
    check_inputs(experiment)
    with stoppable(root.path), store.only_writer(root.path):
        inputs = load_inputs(experiment, root)
        trials, arms = trials_of(experiment, root), arms_of(experiment, root)
        if restart_from:
            _restart([*arms, *(trial for trial in trials if trial.is_outdated(inputs))], restart_from)
        for trial in trials:
            trial.check(inputs)
        check_arms(root, arms, inputs)
        _claim(root, experiment)
        tune(experiment, root, trials, inputs, jobs)
        arms = arms_of(experiment, root)
        for arm in arms:
            arm.check(inputs)
        run_arms(experiment, root, arms, inputs, jobs)
        table = write_table(root.path)
        _write_index(root, key)
        return table


def arms_of(experiment: Experiment, root: Folder) -> list[Arm]:
    """All arms, in the order in which they run."""
    return [Arm(experiment, arm, seed, root) for seed in range(experiment.seeds) for arm in experiment.arms()]


def check_format(path: Path) -> None:
    """
    Raises:
        UserError: when a run folder was written in another format.
    """
    if (path / "experiment.yaml").exists():
        found = store.read_json(path / "versions.json").get("format") if (path / "versions.json").exists() else None
        if found != FORMAT:
            raise UserError(
                f"{path} has format {found}, and this harness reads format {FORMAT}: use the harness that made it "
                "(versions.json), or take another --name"
            )


def _key(experiment: Experiment) -> str:
    """Of everything that a run depends on: its options, the content of the files and folders that they name, the code
    and the packages."""
    named = [experiment.prompts, experiment.preferences, experiment.data_dir, experiment.judge_engine]
    named += [value for options in experiment.options.values() for value in options.values()]
    methods = {type(experiment.method(arm)).__module__.partition(".")[0] for arm in experiment.arms()}
    return store.digest(
        [
            experiment.as_dict(),
            model_digests(experiment),
            fingerprints.of_named(name for name in named if name != TESTBED),
            fingerprints.of_device(experiment.device),
            fingerprints.of_packages(*PACKAGES),
            fingerprints.of_code("harness", *sorted(methods)),
        ]
    )


def _finished(root: Folder, key: str) -> bool:
    """Whether the index is of a finished run with this key, and every file in it is there."""
    if not (root / INDEX).exists():
        return False
    index = store.read_json(root / INDEX)
    return index["key"] == key and all((root / name).exists() for name in index["files"])


def _write_index(root: Folder, key: str) -> None:
    """What is in a finished run: each file with its SHA-256 and the step that made it, from the marks of the steps."""
    files = {}
    for place in sorted([*(root / "arms").iterdir(), *(root / FILE.parent).glob("*/*/")]):
        folder = Folder(place)
        for step in folder.steps():
            for name, digest in folder.mark(step).files.items():
                if (file := place / name).exists():  # models of trials do not
                    files[str(file.relative_to(root.path))] = {"sha256": digest, "step": step}
    if (root / FILE).exists():
        files[str(FILE)] = {"sha256": store.file_digest(root / FILE), "step": "tuning"}
    store.write_json(root / INDEX, {"format": FORMAT, "key": key, "files": files})


def _restart(arms: Sequence[Arm], restart_from: str) -> None:
    method, _, step = restart_from.rpartition("/")
    chosen = [arm for arm in arms if method in ("", arm.name)]
    if not [arm for arm in chosen if arm.forget(step)]:
        steps = ", ".join(sorted({name for arm in chosen or arms for name in arm.steps()}))
        raise UserError(f"no arm has a step {restart_from!r}: give STEP or METHOD/STEP with one of {steps}")


def _claim(root: Folder, experiment: Experiment) -> None:
    """Writes the resolved configuration, and what it runs on."""
    versions = {"format": FORMAT, **fingerprints.of_packages(*PACKAGES)}
    store.write_json(root / "versions.json", versions | {"machine": platform.machine(), "system": platform.system()})
    store.write_text(root / "experiment.yaml", yaml.safe_dump(experiment.as_dict(), sort_keys=False))


def read_experiment(path: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        UserError: when the folder holds none.
    """
    file = path / "experiment.yaml"
    if not file.exists():
        raise UserError(f"{path} is no run folder: it has no experiment.yaml")
    check_format(path)
    return build(Experiment, load(file), "option")


def table_of(path: Path) -> Table:
    """The table of a run folder from its stored scores."""
    experiment = read_experiment(path)
    rows = [_row(experiment, method, Folder(path)) for method in experiment.arms()]
    return build_table(
        rows,
        title=experiment.name,
        testbed=experiment.data_dir == TESTBED,
        titles={name: registry.load("benchmark", name).title for name in experiment.benchmarks},
        limit=experiment.limit,
    )


def write_table(path: Path) -> Table:
    """The table of a run folder, written there as table.md and table.json."""
    table = table_of(path)
    store.write_text(path / "table.md", to_markdown(table))
    store.write_json(path / "table.json", to_json(table))
    return table


def _row(experiment: Experiment, name: str, root: Folder) -> ResultRow:
    scores: dict[str, dict[int, Score]] = {}
    ledgers, seconds = {}, {}
    for seed in range(experiment.seeds):
        arm = Arm(experiment, name, seed, root)
        for benchmark in experiment.benchmarks:
            file = arm.folder / "scores" / f"{benchmark}.json"
            if not file.exists():
                if arm.folder.mark(step_names(benchmark)[1]):  # left out
                    continue
                raise UserError(f"{file} is missing: finish the run first (harness run with the same options)")
            scores.setdefault(benchmark, {})[seed] = Score(**store.read_json(file))
        ledgers[seed] = store.read_json(arm.folder / "ledger.json")
        seconds[seed] = arm.seconds()
    method = experiment.method(name)
    return ResultRow(name, method.supervision(experiment.method_options(name)), scores, ledgers, seconds)
