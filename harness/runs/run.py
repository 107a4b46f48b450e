"""Run an experiment: its arms, one after the other or in parallel processes, then its table."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import yaml

from harness.benchmarks import files
from harness.benchmarks.loading import benchmarks_of
from harness.endpoints.wire import endpoint_url
from harness.engines.template_files import chat_writer
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.experiment.scale import with_scale
from harness.files import sources, store
from harness.files.folders import RunFolder, run_folder
from harness.methods.mixtures import source_names
from harness.models import fingerprints
from harness.models.folder import TESTBED, fetch, model_folder
from harness.results.folder import CODE_FILES, FORMAT, check_format, read_experiment, write_table
from harness.runs.arm import Arm
from harness.runs.earlier import with_earlier, without_outdated
from harness.runs.engine_choice import INSTALLED, described, threads_of
from harness.runs.gguf_models import with_unpacked_models
from harness.runs.inputs import check_inputs, load_inputs, model_digests
from harness.runs.judge_choice import judge_module
from harness.runs.processes import launch_dependencies
from harness.runs.scoring import NUMBERS
from harness.runs.tuning import check_arms, trials_of, tune
from harness.runs.workers import run_arms
from harness.signals import stoppable
from harness.stages import train
from harness.tables.schema import Table
from harness.training.environment import check_environment

PACKAGES = ("harness", *train.PACKAGES, *NUMBERS)


def run(
    experiment: Experiment, results: Path, jobs: int = 1, restart_from: str | None = None, ray: str | None = None
) -> Table:
    """Train, answer, judge, score and compare. Finished steps in the folder are reused, and other methods that are
    finished there take part in the comparison.

    Args:
        jobs: processes that run arms in parallel.
        restart_from: comma-separated steps to redo with all steps that depend on them: STEP in every arm that has it,
            or METHOD/STEP in those of one method. Trials of tuning are reused where they can be.
        ray: address of a Ray cluster that runs the arms, or "local".

    Raises:
        UserError: for anything the user can fix; nothing that was finished is lost.
        Stopped: for SIGINT and SIGTERM.
    """
    if ray and jobs > 1:
        raise UserError("give --jobs or --ray, not both: a cluster runs as many arms at once as it has room for")
    check_environment()
    root = run_folder(results, experiment.name)
    check_format(root.path)
    experiment = with_unpacked_models(experiment, results)
    if not experiment.model_url:
        fetch(experiment.model)
    asked = dated(with_scale(experiment), root)
    experiment = with_earlier(asked, root)
    key = _key(experiment)
    if not restart_from and _finished(root, key):
        print(f"all steps of {root.path} were finished before: nothing is computed", file=sys.stderr)
        return write_table(root.path)
    check_inputs(experiment)
    if not experiment.model_url:
        print(f"engine: {described(experiment)}", file=sys.stderr)
    with stoppable(root.path), store.only_writer(root.path):
        inputs = load_inputs(experiment, root)
        experiment = without_outdated(experiment, asked.arms(), inputs, root)
        trials, arms = trials_of(experiment, root), arms_of(experiment, root)
        if restart_from:
            outdated = [*arms, *(trial for trial in trials if trial.is_outdated(inputs))]
            for step in restart_from.split(","):
                _restart(outdated, step.strip())
        for trial in trials:
            trial.check(inputs)
        check_arms(root, arms, inputs)
        _claim(root, experiment)
        tune(experiment, root, trials, inputs, jobs, ray)
        arms = arms_of(experiment, root)
        for arm in arms:
            arm.check(inputs)
        run_arms(experiment, root, arms, inputs, jobs, ray)
        table = write_table(root.path)
        _write_index(root, _key(experiment))
        print(
            f"finished: everything is in {root.path}\n"
            f"  harness report {root.path}   # one web page\n"
            f"  harness verify {root.path}   # recompute every number",
            file=sys.stderr,
        )
        return table


def dated(experiment: Experiment, root: RunFolder) -> Experiment:
    """Set the date that chat templates write, if one of them does: that of the run folder, or today."""
    if experiment.date or not any(map(_writes_date, _models(experiment))):
        return experiment
    known = read_experiment(root.path).date if root.experiment.exists() else None
    return replace(experiment, date=known or date.today().isoformat())


def _models(experiment: Experiment) -> list[str]:
    """The models on this machine whose chat templates are used."""
    writers = [asdict(experiment.method_options(arm)).get("principle_model") for arm in experiment.arms()]
    names = [None if experiment.model_url else experiment.model, experiment.judge_engine, *writers]
    return [name for name in names if name]


def _writes_date(model: str) -> bool:
    try:
        return chat_writer(model_folder(model), model).program.writes_date
    except UserError:  # loading the model reports what is wrong
        return False


def arms_of(experiment: Experiment, root: RunFolder) -> list[Arm]:
    """All arms, in the order in which they run."""
    return [Arm(experiment, arm, seed, root) for seed in range(experiment.seeds) for arm in experiment.arms()]


def _key(experiment: Experiment) -> str:
    """A digest of everything that a run depends on: options, the content of files and folders that they name, other
    files that benchmarks read, code, packages and environment."""
    named = [*source_names(experiment.prompts), *source_names(experiment.preferences), experiment.data_dir]
    named += [value for options in experiment.options.values() for value in options.values()]
    benchmarks = benchmarks_of(experiment).values()
    kinds = [*map(experiment.method, experiment.arms()), *benchmarks]
    ours = {*sources.OURS, *(type(each).__module__.partition(".")[0] for each in kinds)}
    roots = (sources.Roots(()), *sorted({type(each).__module__ for each in kinds}))
    data = Path(experiment.data_dir)  # with the testbed's suites any path will do: none of their files is a resource
    return store.digest(
        [
            experiment.as_dict(),
            model_digests(experiment),
            fingerprints.of_model(model_folder(experiment.judge_engine)) if experiment.judge_engine else None,
            endpoint_url(experiment.judge_url) if judge_module(experiment) == "harness.endpoints.client" else None,
            described(experiment),
            launch_dependencies(experiment),
            fingerprints.of_named(name for name in named if name != TESTBED),
            [files.digests(resources) for each in benchmarks if (resources := each.resources(data))],
            fingerprints.of_device(experiment.device),
            fingerprints.of_environment(),
            threads_of(experiment),
            fingerprints.of_packages(*PACKAGES, *_scorers(experiment), *sources.packages(*roots)),
            sources.of_packages(*sorted(ours)),
            sources.digest(*roots),  # with the modules beside a file
        ]
    )


def _scorers(experiment: Experiment) -> list[str]:
    """Packages that the scores of the benchmarks depend on."""
    return [package for each in benchmarks_of(experiment).values() for package in each.packages]


def _finished(root: RunFolder, key: str) -> bool:
    """Whether the index is of a finished run with this key, and all its files are there."""
    if not root.index.exists():
        return False
    index = store.read_json(root.index)
    return index["key"] == key and all((root / name).exists() for name in index["files"])


def _write_index(root: RunFolder, key: str) -> None:
    """Write the index of a finished run: each file with its SHA-256 and the step that made it, from the marks of the
    steps; the marks themselves; and the files of the run as a whole."""
    listed: dict[str, dict[str, str]] = {}
    for folder in root.step_folders():
        for step in folder.steps():
            file = folder.mark_file(step)
            listed[str(file.relative_to(root.path))] = {"sha256": store.file_digest(file), "step": step}
            mark = folder.mark(step)
            for name, digest in mark.files.items() if mark else ():
                if (file := folder / name).exists():  # models of trials are deleted
                    listed[str(file.relative_to(root.path))] = {"sha256": digest, "step": step}
    for file in run_files(root):
        step = "tuning" if file == root.trials else "run"
        listed[str(file.relative_to(root.path))] = {"sha256": store.file_digest(file), "step": step}
    store.write_json(root.index, {"format": FORMAT, "key": key, "files": listed})


def run_files(root: RunFolder) -> list[Path]:
    """The indexed files that no step of an arm makes, those that are there."""
    return [file for file in (root.trials, root.experiment, root.versions) if file.exists()]


def _restart(arms: Sequence[Arm], restart_from: str) -> None:
    method, _, step = restart_from.rpartition("/")
    chosen = [arm for arm in arms if method in ("", arm.name)]
    if not [arm for arm in chosen if arm.forget(step)]:
        steps = ", ".join(sorted({name for arm in chosen or arms for name in arm.steps()}))
        raise UserError(f"no arm has a step {restart_from!r}: give STEP or METHOD/STEP with one of {steps}")


def _claim(root: RunFolder, experiment: Experiment) -> None:
    """Write the resolved configuration, the versions, the machine, and the files with methods and benchmarks."""
    command, versions = experiment.command, fingerprints.of_packages(*PACKAGES, *_scorers(experiment), *INSTALLED)
    machine = {"machine": platform.machine(), "system": platform.system(), **fingerprints.machine(experiment.device)}
    made = {"format": FORMAT, "command": command, **versions, **machine}
    if files := registry.files_of(experiment.targets("method") | experiment.targets("benchmark")):
        made[CODE_FILES] = files
    store.write_json(root.versions, made)
    options = yaml.safe_dump(experiment.as_dict(), sort_keys=False)
    store.write_text(root.experiment, f"# made by {json.dumps(command)}\n{options}")  # as JSON it stays on one line
