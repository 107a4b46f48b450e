"""Runs an experiment: its arms, one after the other or in parallel processes, then its table."""

import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import yaml

import harness
from harness import registry, store
from harness.arm import Arm
from harness.benchmarks.base import Score
from harness.comparison import ResultRow, Table
from harness.comparison import build as build_table
from harness.errors import UserError
from harness.experiment import TESTBED, Experiment, build, load
from harness.inputs import check_inputs, load_inputs
from harness.planning import model_folder
from harness.progress import PLAIN_VARIABLE
from harness.tables import to_json, to_markdown

WHOLE = "run"  # the step that is all of a run
PARENT_LOOK = 0.2  # seconds between two looks whether the parent lives
PACKAGES = ("harness", "torch", "transformers", "trl", "lm-eval", "alpaca-eval", "math-verify", "numpy")


def run(experiment: Experiment, results: Path, jobs: int = 1) -> Table:
    """Train, answer, judge, score and compare; what is already done in the folder is reused.

    Raises:
        UserError: for anything the user can mend; nothing that was finished is lost.
    """
    root = store.Folder(results).folder("runs").folder(experiment.name)
    key = _key(experiment)
    if root.finished(WHOLE, key) and _complete(experiment, root):
        return write_table(root.path)
    check_inputs(experiment)
    with store.only_writer(root.path):
        _claim(root, experiment)
        arms = [(method, seed) for seed in range(experiment.seeds) for method in experiment.arms()]
        if jobs == 1:
            inputs = load_inputs(experiment, root)
            for method, seed in arms:
                Arm(experiment, method, seed, root).run(inputs)
        else:
            _run_parallel(experiment, root, arms, jobs)
        table = write_table(root.path)
        root.finish(WHOLE, key)
        return table


def _key(experiment: Experiment) -> str:
    """Of everything that a run depends on: its options, and the content of the files and folders that they name."""
    named = [experiment.prompts, experiment.preferences, experiment.data_dir, experiment.judge_engine]
    named += [value for options in experiment.options.values() for value in options.values()]
    contents = store.contents(name for name in named if name != TESTBED)
    model = store.tree_digest(model_folder(experiment.model))
    return store.digest([harness.__version__, experiment.as_dict(), model, contents])


def _complete(experiment: Experiment, root: store.Folder) -> bool:
    """Whether all scores are there (a person may have deleted some, to have them made again)."""
    return all(
        (arm.folder / "scores" / f"{name}.json").exists() or arm.left_out(name)
        for arm in (Arm(experiment, arm, seed, root) for arm in experiment.arms() for seed in range(experiment.seeds))
        for name in experiment.benchmarks
    )


def _run_parallel(experiment: Experiment, root: store.Folder, arms: list[tuple[str, int]], jobs: int) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(arms)), context, _start_worker, (experiment, root.path)) as pool:
        waiting = [pool.submit(_run_arm, method, seed) for method, seed in arms]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: tuple = ()


def _start_worker(experiment: Experiment, path: Path) -> None:
    global _worker
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ[PLAIN_VARIABLE] = "1"  # several bars would overwrite each other
    root = store.Folder(path)
    _worker = (experiment, root, load_inputs(experiment, root))


def _end_with(parent: int) -> None:
    """Ends this process when its parent has died: the folder is then free for the next run, and must not be written."""
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK)
    os._exit(1)


def _run_arm(method: str, seed: int) -> None:
    experiment, root, inputs = _worker
    Arm(experiment, method, seed, root).run(inputs)


def _claim(root: store.Folder, experiment: Experiment) -> None:
    """Writes the resolved configuration, or checks that the folder's own differs only in what may differ."""
    file = root / "experiment.yaml"
    if file.exists():
        before = build(Experiment, load(file), "option")
        free = {"methods", "benchmarks", "seeds", "options", "batch_size", "rejudge", "both_orders", "check_pairs"}
        free |= {"judge_max_calls", "judge_max_cost", "judge_price", "judge_concurrency", "judge_rate", "judge_log"}
        changed = [name for name, value in before.as_dict().items() if experiment.as_dict()[name] != value]
        if fixed := [name for name in changed if name not in free]:
            raise UserError(
                f"{root.path} holds a run with another {', '.join(fixed)}: choose another --name, or delete the folder"
            )
    store.write_text(file, yaml.safe_dump(experiment.as_dict(), sort_keys=False))
    versions = {name: version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    store.write_json(root / "versions.json", versions)


def read_experiment(path: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        UserError: when the folder holds none.
    """
    file = path / "experiment.yaml"
    if not file.exists():
        raise UserError(f"{path} is no run folder: it has no experiment.yaml")
    return build(Experiment, load(file), "option")


def write_table(path: Path) -> Table:
    """The table of a run folder from its stored scores; written beside them as table.md and table.json."""
    experiment = read_experiment(path)
    rows = [_row(experiment, method, store.Folder(path)) for method in experiment.arms()]
    table = build_table(
        rows,
        title=experiment.name,
        testbed=experiment.data_dir == TESTBED,
        titles={name: registry.load("benchmark", name).title for name in experiment.benchmarks},
        limit=experiment.limit,
    )
    store.write_text(path / "table.md", to_markdown(table))
    store.write_json(path / "table.json", to_json(table))
    return table


def _row(experiment: Experiment, name: str, root: store.Folder) -> ResultRow:
    scores: dict[str, dict[int, Score]] = {}
    ledgers, seconds = {}, {}
    for seed in range(experiment.seeds):
        arm = Arm(experiment, name, seed, root)
        for benchmark in experiment.benchmarks:
            file = arm.folder / "scores" / f"{benchmark}.json"
            if not file.exists():
                if arm.left_out(benchmark):
                    continue
                raise UserError(f"{file} is missing: finish the run first (harness run with the same options)")
            scores.setdefault(benchmark, {})[seed] = Score(**store.read_json(file))
        ledgers[seed] = store.read_json(arm.folder / "ledger.json")
        seconds[seed] = arm.seconds()
    method = experiment.method(name)
    return ResultRow(name, method.supervision(experiment.method_options(name)), scores, ledgers, seconds)
