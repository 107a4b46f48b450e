"""Verify a run: recompute every digest from the files, every score from its samples, and the tables from the scores.

All problems are reported, whatever is broken. No model is loaded, no judge is asked, nothing is written.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import CHECKPOINT, ArmFolder, RunFolder
from harness.files.marks import differences
from harness.results.folder import FORMAT, check_format, read_experiment, table_of
from harness.runs.arm import Arm
from harness.runs.checkpoints import Checkpoint
from harness.runs.inputs import Inputs, data_folder, load_prompts
from harness.runs.judge_choice import load_judge
from harness.runs.run import arms_of, run_files
from harness.runs.scoring import Scoring
from harness.runs.tuning import FAILED, Trial, ledgers, record, trials_of
from harness.stages.train import SURROUNDINGS
from harness.tables import to_json, to_markdown
from harness.training.reference import read_rows

BROKEN = (  # errors of readers of broken files
    *(UserError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
)
Problems = list[str]


class Link(TypedDict):
    """A step that a number rests on: the files it left, and what it depends on."""

    step: str
    key: str
    files: dict[str, str]
    depends_on: dict[str, Any]


class Number(TypedDict):
    """One score. fraction: of the budget, at which the policy was scored; 1 for the final one. rests_on: the chain from
    the file of the score back to the base model."""

    method: str
    seed: int
    fraction: float
    benchmark: str
    value: float | None
    verified: bool
    problems: Problems
    rests_on: list[Link]


class Report(TypedDict):
    """The report on a run folder. surroundings: how this machine differs from that of the run."""

    run: str
    format: int
    verified: bool
    problems: Problems
    surroundings: list[str]
    numbers: list[Number]


def verify(path: Path) -> Report:
    """Verify a run folder. The report is plain data for JSON.

    Raises:
        UserError: when the folder is not a run folder, or has another format.
    """
    root = RunFolder(path)
    if not root.experiment.exists():
        raise UserError(f"{path} is not a run folder: it has no {root.experiment.name}")
    if root.versions.exists() and not _unreadable(root.versions):
        check_format(path)
    problems = _files(root)
    surroundings: set[str] = set()
    experiment = _attempt(problems, root.experiment, lambda: read_experiment(path))
    numbers: list[Number] = []
    if experiment:
        problems += _strangers(experiment, root)
        inputs = _attempt(problems, path, lambda: _inputs(experiment, root))
        if inputs:
            found, surroundings = _tuned(trials_of(experiment, root), inputs)
            problems += found
        for arm in arms_of(experiment, root):
            found, made, here = _arm(arm, inputs)
            problems, surroundings = problems + found, surroundings | here
            numbers += made
    problems += _tables(root)
    return {
        "run": str(path),
        "format": FORMAT,
        "verified": not problems,
        "problems": list(dict.fromkeys(problems)),
        "surroundings": sorted(surroundings),
        "numbers": numbers,
    }


def _attempt(problems: Problems, what: object, work: Callable[[], Any]) -> Any:
    """The result of some work; None, with a problem added, when files are broken."""
    try:
        return work()
    except BROKEN as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        problems.append(text if str(what) in text else f"{what}: {text}")
        return None


def _unreadable(file: Path) -> Problems:
    problems: Problems = []
    _attempt(problems, file, lambda: json.loads(file.read_bytes()))
    return [f"{file} is not JSON"] if problems else []


def _files(root: RunFolder) -> Problems:
    """What is wrong with files by themselves: marks and the files that they name, the index, reference/."""
    problems: Problems = []
    for folder in root.step_folders():
        for step in folder.steps():
            problems += _mark(root, folder, step)
    for file in root.loose_json():
        problems += _unreadable(file)
    for file in root.references():
        _attempt(problems, file, partial(read_rows, file))
    _attempt(problems, root.index, lambda: problems.extend(_index(root)))
    return problems


def _mark(root: RunFolder, folder: ArmFolder, step: str) -> Problems:
    problems: Problems = []
    file = folder.mark_file(step)
    mark = _attempt(problems, file, lambda: folder.mark(step))
    if mark is None:
        return problems
    if mark.key != store.digest(mark.depends_on):
        problems.append(f"{file} was changed: its key is not the digest of its dependencies")
    damage = _attempt(problems, file, lambda: list(folder.damage(step))) or []
    deleted = str(folder.checkpoints) if root.is_trial(folder) else None  # the models of trials
    return problems + [each for each in damage if deleted is None or not each.startswith(deleted)]


def _index(root: RunFolder) -> Iterator[str]:
    """What is wrong with the index of a finished run."""
    file = root.index
    if not file.exists():
        yield f"{file} is missing: the run is not finished (the same harness run continues it)"
        return
    listed = store.read_json(file)["files"]
    for name, entry in listed.items():
        place = root / name
        if not place.resolve().is_relative_to(root.path.resolve()):
            yield f"{file} names {name}, which is not in the run folder"
        elif not place.is_file():
            yield f"{place} is missing, but {file.name} lists it"
        elif store.file_digest(place) != entry["sha256"]:
            yield f"{place} does not have the digest in {file.name}"
    there = {folder.mark_file(step) for folder in root.step_folders() for step in folder.steps()}
    there.update(run_files(root))
    for other in sorted(there - {root / name for name in listed}):
        yield f"{other} is not in {file.name}: the run was finished without it"


def _strangers(experiment: Experiment, root: RunFolder) -> Problems:
    """Folders and steps that do not belong to the experiment; its table leaves them out."""
    arms: Sequence[Arm] = [*arms_of(experiment, root), *trials_of(experiment, root)]
    along = [checkpoint for arm in arms for checkpoint in arm.checkpoints]
    known = {arm.folder.path: set(arm.steps()) for arm in arms}
    known |= {checkpoint.folder.path: set(checkpoint.steps()) for checkpoint in along}
    problems = []
    for folder in root.step_folders():
        if folder.path not in known:
            problems.append(f"{folder.path} is not part of the experiment (experiment.yaml): the table leaves it out")
            continue
        for step in folder.steps():
            if step not in known[folder.path]:
                file = folder.mark_file(step)
                problems.append(f"{file} is the mark of a step that the experiment (experiment.yaml) does not have")
    return problems


def _arm(arm: Arm, inputs: Inputs | None) -> tuple[Problems, list[Number], set[str]]:
    """What is wrong with an arm, its numbers and those of its checkpoints, and what differs in its surroundings."""
    if inputs is None:
        unknown = [f"{arm.folder.path}: what it depends on cannot be read"]
        scored: list[Arm | Checkpoint] = [arm, *arm.checkpoints]
        return [], [_number(each, name, unknown) for each in scored for name in each.benchmarks], set()
    trained: Problems = []
    found = _attempt(trained, arm.folder.path, lambda: _trained(arm, inputs))
    trained += found[0] if found else []
    surroundings = found[1] if found else set()
    done = bool(found and arm.is_tuned() and not _lacking(arm))
    problems, numbers, here = _numbers(arm, inputs, trained, done)
    problems, surroundings = trained + problems, surroundings | here
    for checkpoint in arm.checkpoints if done else ():
        made: Problems = []
        found = _attempt(made, checkpoint.folder.path, partial(_steps, checkpoint, checkpoint.training_step(inputs)))
        made += found[0] if found else []
        mark = _attempt([], checkpoint.folder.path, partial(checkpoint.folder.mark, CHECKPOINT))
        if mark is None or not checkpoint.none:
            wrong, more, here = _numbers(checkpoint, inputs, trained + made, mark is not None)
            made, numbers, surroundings = made + wrong, numbers + more, surroundings | here
        problems, surroundings = problems + made, surroundings | (found[1] if found else set())
    return problems, numbers, surroundings


def _numbers(
    arm: Arm | Checkpoint, inputs: Inputs, trained: Problems, done: bool
) -> tuple[Problems, list[Number], set[str]]:
    """What is wrong with scores, the scores, and what differs in their surroundings.

    Args:
        trained: what is wrong with the policy. done: whether its training is finished.
    """
    problems: Problems = []
    numbers: list[Number] = []
    surroundings: set[str] = set()
    for name in arm.benchmarks:
        scored: Problems = []
        work = partial(_scored, arm, name, inputs, scored)
        here = _attempt(scored, f"{arm.folder.path}, {name}", work) if done else None
        if here:
            scoring, differs = here
            surroundings |= differs
            if not scoring.left_out:
                numbers.append(_number(arm, name, trained + scored, scoring))
        else:
            numbers.append(_number(arm, name, trained + scored))
        problems += scored
    return problems, numbers, surroundings


def _lacking(arm: Arm) -> bool:
    """Whether a step of training is unfinished, or its mark cannot be read."""
    try:
        return not all(map(arm.folder.mark, arm.training_steps()))
    except UserError:
        return True


def _scored(arm: Arm | Checkpoint, name: str, inputs: Inputs, problems: Problems) -> tuple[Scoring, set[str]]:
    """Add the problems of a score. Returns the scoring, and what differs in its surroundings."""
    scoring = next(each for each in arm.scorings(inputs) if each.name == name)
    found, here = _steps(arm, scoring.steps())
    problems += found
    if not scoring.left_out:
        problems += _recomputed(scoring)
    return scoring, here


def _inputs(experiment: Experiment, root: RunFolder) -> Inputs:
    judge = None if experiment.judge_engine or experiment.judge_model else load_judge(experiment)
    return Inputs(experiment, *load_prompts(experiment), data_folder(experiment, root.path), judge)


def _tuned(trials: Sequence[Trial], inputs: Inputs) -> tuple[list[str], set[str]]:
    """What is wrong with trials, their record and ledgers; what differs in their surroundings."""
    problems: Problems = []
    surroundings: set[str] = set()
    for trial in trials:
        found: Problems = []
        surroundings |= _attempt(found, trial.folder.path, partial(_trial, trial, inputs, found)) or set()
        problems += found
    if trials:
        problems += _record(trials, trials[0].root)
    return problems, surroundings


def _trial(trial: Trial, inputs: Inputs, problems: Problems) -> set[str]:
    """Add the problems of a trial. Returns what differs in its surroundings."""
    if trial.folder.mark(FAILED):
        problems += trial.damage(FAILED)
        return set()
    found, surroundings = _trained(trial, inputs)
    if not found:
        (scoring,) = trial.scorings(inputs)
        found, here = _steps(trial, scoring.steps())
        surroundings |= here
        found += _recomputed(scoring)
    problems += found
    return surroundings


def _record(trials: Sequence[Trial], root: RunFolder) -> list[str]:
    expected: dict[Path, Any]
    try:
        expected = {root.tuning_ledger(method): spent.as_dict() for method, spent in ledgers(trials).items()}
        expected[root.trials] = record(trials, trials[0].experiment.command)
    except BROKEN as error:  # files are missing, or were changed by hand
        return [f"{root.trials} cannot be recomputed from the trials: {error}"]
    return [f"{file} is not what the trials give" for file, content in expected.items() if _content(file) != content]


def _content(file: Path) -> Any:
    """The content of a JSON file; None when it is missing or broken."""
    return _attempt([], file, lambda: json.loads(file.read_bytes()))


def _trained(arm: Arm, inputs: Inputs) -> tuple[list[str], set[str]]:
    """What is wrong with an arm's training; what differs in its surroundings."""
    if not arm.is_tuned():
        return [f"{arm.folder.path}: the tuning of {arm.name} is not finished"], set()
    problems, surroundings = _steps(arm, arm.stage_steps(inputs))
    return problems + _ledger(arm), surroundings


def _steps(arm: Arm | Checkpoint, steps: Iterator[tuple[str, dict[str, Any]]]) -> tuple[list[str], set[str]]:
    """What is wrong with steps, up to the first that is not finished; and what differs in their surroundings."""
    problems: Problems = []
    surroundings: set[str] = set()
    for step, depends_on in steps:
        mark = arm.folder.mark(step)
        if mark is None:
            return [*problems, f"{arm.folder.path}: step {step} is not finished"], surroundings
        problems += arm.damage(step)
        for name, before, now in differences(mark.depends_on, depends_on):
            text = f"{name} was {before}, is {now}"
            if name.partition(".")[0] in SURROUNDINGS:  # no stored number is wrong because of it
                surroundings.add(text)
            elif name == "judge endpoint" and arm.experiment.judge_url is None:  # set by an environment variable
                surroundings.add(text)
            elif not (name == "judge" and arm.experiment.judge_engine):  # "judge model" has it
                problems.append(f"{arm.folder.path}: step {step} depends on something that has changed: {text}")
    return problems, surroundings


def _ledger(arm: Arm) -> list[str]:
    file = arm.folder.ledger
    mark = arm.folder.mark(arm.stages[-1].name) if arm.stages else None
    if mark and file.exists() and _content(file) != mark.facts.get("ledger"):
        return [f"{file} is not what was booked when training ended"]
    return [] if file.exists() else [f"{file} is missing"]


def _recomputed(scoring: Scoring) -> list[str]:
    files = [scoring.samples_file, scoring.score_file]
    files += [scoring.judgments_file] if scoring.benchmark.needs_judge else []
    if not all(file.exists() for file in files):
        return []  # reported with the marks
    try:
        again = store.plain(asdict(scoring.score()))
    except BROKEN as error:  # samples that were changed by hand
        return [f"{scoring.score_file} cannot be recomputed from its samples: {error}"]
    kept = _content(scoring.score_file)
    if isinstance(kept, dict) and "clusters" not in kept:  # scores of older runs have none
        again.pop("clusters")
    if json.dumps(again) != json.dumps(kept):
        return [f"{scoring.score_file} is not what its samples and judgments give"]
    return []


def _tables(root: RunFolder) -> Problems:
    """What is wrong with the written tables."""
    problems: Problems = []
    table = _attempt(problems, root.table_json, lambda: table_of(root.path))

    def is_as_written(file: Path) -> bool:
        content = file.read_text(encoding="utf-8")
        if file == root.table_json:
            return _rounded(content) == _rounded(json.dumps(to_json(table)))
        return content == to_markdown(table)

    for file in (root.table_json, root.table_markdown):
        if not file.exists():
            problems.append(f"{file} is missing")
        elif table and not _attempt([], file, partial(is_as_written, file)):
            problems.append(f"{file} is not what the stored scores give")
    return problems


def _rounded(text: str) -> Any:
    """A JSON document with its numbers rounded to 9 digits: the last ones of sums depend on the number of threads."""
    return json.loads(text, parse_float=lambda number: f"{float(number):.9g}")


def _number(arm: Arm | Checkpoint, benchmark: str, problems: list[str], scoring: Scoring | None = None) -> Number:
    """The report on one score.

    Args:
        scoring: None when training is not finished.
    """
    value = None
    if scoring and isinstance(content := _content(scoring.score_file), dict):
        value = content.get("value")
    return {
        "method": arm.name,
        "seed": arm.seed,
        "fraction": arm.fraction if isinstance(arm, Checkpoint) else 1.0,
        "benchmark": benchmark,
        "value": value,
        "verified": not problems,
        "problems": problems,
        "rests_on": _chain(arm, scoring) if scoring else [],
    }


def _chain(arm: Arm | Checkpoint, scoring: Scoring) -> list[Link]:
    """The steps from the score back to the first: the files of each, and the digests of what it depends on."""
    steps = [(arm.folder, scoring.score_step), (arm.folder, scoring.samples_step)]
    if isinstance(arm, Checkpoint):
        steps.append((arm.folder, CHECKPOINT))
    trained = arm.arm.folder if isinstance(arm, Checkpoint) else arm.folder
    steps += [(trained, step) for step in reversed(arm.training_steps())]
    chain: list[Link] = []
    for folder, step in steps:
        if mark := _attempt([], step, partial(folder.mark, step)):
            chain.append({"step": step, "key": mark.key, "files": mark.files, "depends_on": mark.depends_on})
    return chain
