"""What the numbers of a run rest on: every digest computed again from the files, every score from its samples.

All that is wrong is reported, whatever is broken. Nothing is loaded, asked or written.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.marks import Folder, differences
from harness.results.folder import FORMAT, check_format, read_experiment, table_of
from harness.results.tuning_record import FILE, document
from harness.runs.arm import Arm
from harness.runs.inputs import Inputs, data_folder, load_judge, load_prompts
from harness.runs.run import INDEX, OWN, arms_of, step_folders
from harness.runs.scoring import Scoring
from harness.runs.tuning import FAILED, Trial, ledgers, rows, trials_of
from harness.stages.train import SURROUNDINGS
from harness.tables import to_json, to_markdown
from harness.training.reference import read_rows

BROKEN = (  # by files that are not as their readers expect
    *(UserError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
)
Problems = list[str]


def verify(path: Path) -> dict[str, Any]:
    """The report on a run folder, plain data for JSON.

    Returns: "run", "format", "verified" (nothing is wrong), "problems" (texts), "surroundings" (what differs here from
    where the run was made) and "numbers", one for each method, seed and benchmark: "value", "verified", "problems", and
    "rests_on", the chain from the score's file back to the base model.

    Raises:
        UserError: when the folder holds no run, or one in another format.
    """
    if not (path / "experiment.yaml").exists():
        raise UserError(f"{path} is no run folder: it has no experiment.yaml")
    root, problems, surroundings = Folder(path), [], set()
    if (path / "versions.json").exists() and not _unreadable(path / "versions.json"):
        check_format(path)
    problems += _files(root)
    experiment = _attempt(problems, path / "experiment.yaml", lambda: read_experiment(path))
    numbers = []
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
    problems += _table(path)
    return {
        "run": str(path),
        "format": FORMAT,
        "verified": not problems,
        "problems": list(dict.fromkeys(problems)),
        "surroundings": sorted(surroundings),
        "numbers": numbers,
    }


def _attempt(problems: Problems, what: object, work: Callable[[], Any]) -> Any:
    """What some work gives, or None with a problem noted, where files are not as it expects them."""
    try:
        return work()
    except BROKEN as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        problems.append(text if str(what) in text else f"{what}: {text}")
        return None


def _unreadable(file: Path) -> Problems:
    found: Problems = []
    _attempt(found, file, lambda: json.loads(file.read_bytes()))
    return [f"{file} is not JSON" for _ in found]


def _files(root: Folder) -> Problems:
    """What is wrong with files by themselves: marks and what they say of other files, the index, reference/."""
    problems: Problems = []
    for folder in step_folders(root):
        for step in folder.steps():
            problems += _mark(folder, step)
    loose = [*root.path.glob("*.json"), *root.path.glob("arms/*/*.json"), *(root / FILE.parent).rglob("ledger.json")]
    for file in sorted(loose):
        problems += _unreadable(file)
    for file in sorted((root / "reference").rglob("*.jsonl")):
        _attempt(problems, file, partial(read_rows, file))
    _attempt(problems, root / INDEX, lambda: problems.extend(_index(root)))
    return problems


def _mark(folder: Folder, step: str) -> Problems:
    problems: Problems = []
    file = folder / "steps" / f"{step}.json"
    mark = _attempt(problems, file, lambda: folder.mark(step))
    if mark is None:
        return problems
    if mark.key != store.digest(mark.depends_on):
        problems.append(f"{file} was changed: its key is not the digest of what it says that the step depends on")
    trial = folder.path.parent.parent.name == FILE.parent.name
    gone = str(folder / "checkpoints") if trial else None  # the models of trials are removed
    damage = _attempt(problems, file, lambda: list(folder.damage(step))) or []
    return problems + [each for each in damage if gone is None or not each.startswith(gone)]


def _index(root: Folder) -> Iterator[str]:
    """What is wrong with the index of a finished run."""
    file = root / INDEX
    if not file.exists():
        yield f"{file} is missing: the run is not finished (the same harness run goes on)"
        return
    listed = store.read_json(file)["files"]
    for name, entry in listed.items():
        place = root / name
        if not place.resolve().is_relative_to(root.path.resolve()):
            yield f"{file} names {name}, which is not in the run folder"
        elif not place.is_file():
            yield f"{place} is missing, and {file.name} names it"
        elif store.file_digest(place) != entry["sha256"]:
            yield f"{place} is not what {file.name} says of it"
    there = {place / "steps" / f"{step}.json" for place in step_folders(root) for step in place.steps()}
    there |= {root / name for name in (str(FILE), *OWN) if (root / name).exists()}
    for other in sorted(there - {root / name for name in listed}):
        yield f"{other} is not in {file.name}: the run was not finished with it"


def _strangers(experiment: Experiment, root: Folder) -> Problems:
    """Folders and steps that the experiment does not have: its table leaves them out."""
    arms: Sequence[Arm] = [*arms_of(experiment, root), *trials_of(experiment, root)]
    known = {arm.folder.path: set(arm.steps()) for arm in arms}
    problems = []
    for folder in step_folders(root):
        if folder.path not in known:
            problems.append(f"{folder.path} is none of the experiment's (experiment.yaml): the table leaves it out")
            continue
        for step in folder.steps():
            if step not in known[folder.path]:
                file = folder / "steps" / f"{step}.json"
                problems.append(f"{file} is of a step that the experiment (experiment.yaml) does not have")
    return problems


def _arm(arm: Arm, inputs: Inputs | None) -> tuple[Problems, list[dict[str, Any]], set[str]]:
    """What is wrong with an arm, its numbers, and what differs in its surroundings."""
    if inputs is None:  # only what its files say by themselves can be told
        unknown = [f"{arm.folder.path}: what it was made from cannot be read"]
        return [], [_number(arm, name, unknown) for name in arm.benchmarks], set()
    trained: Problems = []
    found = _attempt(trained, arm.folder.path, lambda: _trained(arm, inputs))
    trained += found[0] if found else []
    surroundings = found[1] if found else set()
    problems, numbers = list(trained), []
    done = found and arm.is_tuned() and not _lacking(arm)
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
    """Whether a step of training is not finished, or its mark cannot be read."""
    try:
        return not all(map(arm.folder.mark, arm.training_steps()))
    except UserError:
        return True


def _scored(arm: Arm, name: str, inputs: Inputs, problems: Problems) -> tuple[Scoring, set[str]]:
    """Adds what is wrong with a score; the scoring, and what differs in its surroundings."""
    scoring = next(each for each in arm.scorings(inputs) if each.name == name)
    found, here = _steps(arm, scoring.steps())
    problems += found
    if not scoring.left_out:
        problems += _recomputed(scoring)
    return scoring, here


def _inputs(experiment: Experiment, root: Folder) -> Inputs:
    judge = None if experiment.judge_engine or experiment.judge_model else load_judge(experiment)
    return Inputs(experiment, *load_prompts(experiment), data_folder(experiment, root.path), judge)


def _tuned(trials: Sequence[Trial], inputs: Inputs) -> tuple[list[str], set[str]]:
    """What is wrong with trials, and with what was chosen and booked; what differs in their surroundings."""
    problems: Problems = []
    surroundings: set[str] = set()
    for trial in trials:
        found: Problems = []
        surroundings |= _attempt(found, trial.folder.path, partial(_trial, trial, inputs, found)) or set()
        problems += found
    if trials:
        problems += _chosen(trials, trials[0].root / FILE.parent)
    return problems, surroundings


def _trial(trial: Trial, inputs: Inputs, problems: Problems) -> set[str]:
    """Adds what is wrong with a trial; what differs in its surroundings."""
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


def _chosen(trials: Sequence[Trial], folder: Path) -> list[str]:
    try:
        expected = {folder / method / "ledger.json": spent.as_dict() for method, spent in ledgers(trials).items()}
        expected[folder / FILE.name] = document(rows(trials), trials[0].experiment.command)
    except BROKEN as error:  # files are missing, or were changed by hand
        return [f"{folder / FILE.name} cannot be computed again from the trials: {error}"]
    return [f"{file} is not what the trials give" for file, content in expected.items() if _content(file) != content]


def _content(file: Path) -> Any:
    """What a JSON file holds; None for one that is missing or broken."""
    return _attempt([], file, lambda: json.loads(file.read_bytes()))


def _trained(arm: Arm, inputs: Inputs) -> tuple[list[str], set[str]]:
    """What is wrong with an arm's training; what differs in its surroundings."""
    if not arm.is_tuned():
        return [f"{arm.folder.path}: the tuning of {arm.name} is not finished"], set()
    problems, surroundings = _steps(arm, arm.stage_steps(inputs))
    return problems + _ledger(arm), surroundings


def _steps(arm: Arm, steps: Iterator[tuple[str, dict]]) -> tuple[list[str], set[str]]:
    """What is wrong with steps, up to the first that is not finished; and what differs in their surroundings."""
    problems, surroundings = [], set()
    for step, depends_on in steps:
        mark = arm.folder.mark(step)
        if mark is None:
            return [*problems, f"{arm.folder.path}: step {step} is not finished"], surroundings
        problems += arm.damage(step)
        for name, before, now in differences(mark.depends_on, depends_on):
            text = f"{name} was {before}, is {now}"
            if name.partition(".")[0] in SURROUNDINGS:  # no stored number is wrong for that
                surroundings.add(text)
            elif name == "judge endpoint" and arm.experiment.judge_url is None:  # it was a variable that said where
                surroundings.add(text)
            elif not (name == "judge" and arm.experiment.judge_engine):  # in it are weights, which "judge model" knows
                problems.append(f"{arm.folder.path}: step {step} was made from something else: {text}")
    return problems, surroundings


def _ledger(arm: Arm) -> list[str]:
    file = arm.folder / "ledger.json"
    mark = arm.folder.mark(arm.stages[-1].name) if arm.stages else None
    if mark and file.exists() and _content(file) != mark.facts.get("ledger"):
        return [f"{file} is not what was booked when training ended"]
    return [] if file.exists() else [f"{file} is missing"]


def _recomputed(scoring: Scoring) -> list[str]:
    files = [scoring.samples_file, scoring.score_file]
    files += [scoring.judgments_file] if scoring.benchmark.needs_judge else []
    if not all(file.exists() for file in files):
        return []  # which is told already
    try:
        again = store.plain(asdict(scoring.score()))
    except BROKEN as error:  # samples that were changed by hand
        return [f"{scoring.score_file} cannot be computed again from its samples: {error}"]
    kept = _content(scoring.score_file)
    if isinstance(kept, dict) and "clusters" not in kept:  # from before they were stored
        again.pop("clusters")
    if json.dumps(again) != json.dumps(kept):
        return [f"{scoring.score_file} is not what its samples and judgments give"]
    return []


def _table(path: Path) -> Problems:
    """What is wrong with the tables that were written."""
    problems: Problems = []
    table = _attempt(problems, path / "table.json", lambda: table_of(path))
    for name, expected in (
        ("table.json", lambda content: _rounded(content) == _rounded(json.dumps(to_json(table)))),
        ("table.md", lambda content: content == to_markdown(table)),
    ):
        file = path / name
        if not file.exists():
            problems.append(f"{file} is missing")
        elif table and not _attempt([], file, lambda: expected(file.read_text(encoding="utf-8"))):  # noqa: B023
            problems.append(f"{file} is not what the stored scores give")
    return problems


def _rounded(text: str) -> Any:
    """A JSON document with numbers of 9 digits: sums of many differ in the last with the number of threads."""
    return json.loads(text, parse_float=lambda number: f"{float(number):.9g}")


def _number(arm: Arm, benchmark: str, problems: list[str], scoring: Scoring | None = None) -> dict[str, Any]:
    """scoring: None when training is not finished."""
    value = None
    if scoring and isinstance(content := _content(scoring.score_file), dict):
        value = content.get("value")
    return {
        "method": arm.name,
        "seed": arm.seed,
        "benchmark": benchmark,
        "value": value,
        "verified": not problems,
        "problems": problems,
        "rests_on": _chain(arm, scoring) if scoring else [],
    }


def _chain(arm: Arm, scoring: Scoring) -> list[dict[str, Any]]:
    """Steps from the score back to the first: what each left, and the digests of what it was made from."""
    chain = []
    for step in [scoring.score_step, scoring.samples_step, *reversed(arm.training_steps())]:
        if mark := _attempt([], step, partial(arm.folder.mark, step)):
            chain.append({"step": step, "key": mark.key, "files": mark.files, "depends_on": mark.depends_on})
    return chain
