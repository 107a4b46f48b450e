"""One arm of a finished run, as exports read it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import __version__
from harness.benchmarks.base import Score, step_names
from harness.budget import Ledger
from harness.errors import UserError, unknown_name
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import RunFolder
from harness.files.hub import is_dataset_name
from harness.files.marks import Mark
from harness.methods.base import Stage
from harness.models.folder import TESTBED, model_folder
from harness.results.folder import read_experiment
from harness.runs.arm import Arm
from harness.stages.train import collecting

COUNTS = ("calls", "prompt_tokens", "generated_tokens", "trained_tokens", "updates")


def arm_of(run: Path, method: str, seed: int) -> Arm:
    """An arm of a run.

    Raises:
        UserError: when the folder is not a run folder, or the run has no such arm.
    """
    experiment = read_experiment(run)
    if method not in experiment.arms():
        raise unknown_name("method of this run", method, experiment.arms())
    if not 0 <= seed < experiment.seeds:
        raise UserError(f"{run} has no seed {seed}: its seeds are 0 to {experiment.seeds - 1}")
    return Arm(experiment, method, seed, RunFolder(run))


def stage_of(arm: Arm, name: str | None) -> Stage:
    """A stage of an arm, by default its last.

    Raises:
        UserError: when the arm trains nothing, or has no stage of this name.
    """
    stages = {stage.name: stage for stage in arm.stages}
    if not stages:
        raise UserError(f"{arm.name} trains nothing, so only its scores can be exported")
    if name is not None and name not in stages:
        raise unknown_name(f"stage of {arm.name}", name, stages)
    return stages[name] if name else arm.stages[-1]


def finished(arm: Arm, step: str) -> Mark:
    """The mark of a finished step, after checking that its files are unchanged.

    Raises:
        UserError: when it is not finished, or a file is missing or was changed.
    """
    mark = arm.folder.mark(step)
    if mark is None:
        raise UserError(f"{arm.folder.path}: step {step} is not finished: finish the run first")
    arm.folder.check(step)
    return mark


def check_free(folder: Path) -> None:
    """
    Raises:
        UserError: when an export would replace something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} already exists: choose another folder (-o), or remove it")


def model_name(experiment: Experiment) -> str:
    """The model that a run started from; of a folder on this machine, only the last part of its path."""
    return f"testbed (embedded in harness {__version__})" if experiment.model == TESTBED else _named(experiment.model)


def base_model(experiment: Experiment) -> dict[str, str]:
    """Front matter with the start model, if that is on the hub."""
    named = experiment.model
    if _named(named) != named or "/" not in named:
        return {}
    try:
        model_folder(named)
    except UserError:  # it may be a folder that was deleted
        return {}
    return {"base_model": named}


def provenance(arm: Arm, stage: Stage) -> dict[str, Any]:
    """What a stage of an arm was made from, by name."""
    collected = finished(arm, collecting(stage))
    made = collected.depends_on
    return {
        "run": arm.experiment.name,
        "method": arm.name if arm.name == made["method"] else f"{arm.name} ({made['method']})",
        "stage": stage.name,
        "seed": arm.seed,
        "start model": model_name(arm.experiment),
        **{f"start model, SHA-256 of {part} (16 digits)": digest for part, digest in made["model"].items()},
        "budget": str(arm.experiment.cap),
        "judge": made["judge"],
        "prompts, SHA-256 (16 digits)": made.get("prompts") or made.get("preferences"),
        "preferences file, SHA-256": next(iter(collected.files.values())),
        "code, SHA-256 (16 digits)": made["code"],
        "device": made["device"],
        "versions": ", ".join(f"{name} {found}" for name, found in made["packages"].items()),
    }


def options(arm: Arm) -> dict[str, Any]:
    """The options of the method and of sampling."""
    experiment = arm.experiment
    options = {name: _named(value) for name, value in asdict(arm.options).items()}
    return {
        **options,
        "max_new_tokens": experiment.new_tokens,
        "temperature": experiment.temperature,
        "top_p": experiment.top_p,
    }


def ledger(arm: Arm) -> dict[str, Any]:
    """What an arm spent, by role."""
    spent = Ledger.from_dict(store.read_json(arm.folder.ledger))
    rows: dict[str, Any] = {"cap": None if spent.cap is None else f"FLOPs {spent.cap:.4g}"}
    for name, part in {"all": spent.total, **spent.roles}.items():
        amounts = asdict(part)
        shown = {"FLOPs": f"{part.flops:.4g}"}
        shown |= {what.replace("_", " "): amounts[what] for what in COUNTS if amounts[what]}
        rows[name] = ", ".join(f"{what} {number}" for what, number in shown.items())
    return rows


def _named(value: Any) -> Any:
    """The value of an option; of a path on this machine, only its last part. URLs and ids of the hub stay."""
    if not isinstance(value, str) or "://" in value or (is_dataset_name(value) and not Path(value).exists()):
        return value
    return Path(value).name or value


def metric_name(score: Score) -> str:
    """The metric as an identifier, such as exact_match for "exact match %"."""
    words = re.sub(r"\([^)]*\)|%", " ", score.metric)
    return re.sub(r"\W+", "_", words.strip()).lower() or "score"


def scores_of(arm: Arm) -> dict[str, Score]:
    """Benchmark -> score of an arm, as the steps left them.

    Raises:
        UserError: when a score is not finished, or its file was changed.
    """
    found = {}
    for name in arm.benchmarks:
        finished(arm, step_names(name)[1])
        if (file := arm.folder.score(name)).exists():  # absent for a benchmark that was left out
            found[name] = Score(**store.read_json(file))
    return found
