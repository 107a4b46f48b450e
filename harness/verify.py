"""What the numbers of a run rest on: every digest computed again from the files, every score from its samples.

Nothing is loaded, asked or written.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import store
from harness.arm import Arm
from harness.errors import UserError
from harness.experiment import Experiment
from harness.inputs import Inputs, data_folder, load_judge, load_prompts
from harness.pipeline import SURROUNDINGS
from harness.results import FORMAT, read_experiment, table_of
from harness.runner import arms_of
from harness.scoring import Scoring
from harness.steps import Folder, differences
from harness.tables import to_json
from harness.trials import FILE, document
from harness.tuning import FAILED, Trial, ledgers, rows, trials_of


def verify(path: Path) -> dict[str, Any]:
    """The report on a run folder, plain data for JSON.

    Returns: "run", "format", "verified" (nothing is wrong), "problems" (texts), "surroundings" (what differs here from
    where the run was made) and "numbers", one for each method, seed and benchmark: "value", "verified", "problems", and
    "rests_on", the chain from the score's file back to the base model.

    Raises:
        UserError: when the folder holds no run, or what it was made from can not be read.
    """
    experiment, root = read_experiment(path), Folder(path)
    inputs = _inputs(experiment, root)
    numbers = []
    problems, surroundings = _tuned(trials_of(experiment, root), inputs)
    for arm in arms_of(experiment, root):
        trained, here = _trained(arm, inputs)
        surroundings |= here
        for scoring in arm.scorings(inputs):
            if not (arm.is_tuned() and all(map(arm.folder.mark, arm.training_steps()))):
                numbers.append(_number(arm, scoring.name, trained))
                continue
            scored, here = _steps(arm, scoring.steps())
            surroundings |= here
            if not scoring.left_out:
                scored += _recomputed(scoring)
                numbers.append(_number(arm, scoring.name, trained + scored, scoring))
            problems += scored
        problems += trained
    problems += _table(path)
    return {
        "run": str(path),
        "format": FORMAT,
        "verified": not problems,
        "problems": list(dict.fromkeys(problems)),
        "surroundings": sorted(surroundings),
        "numbers": numbers,
    }


def _inputs(experiment: Experiment, root: Folder) -> Inputs:
    judge = None if experiment.judge_engine else load_judge(experiment)
    return Inputs(experiment, *load_prompts(experiment), data_folder(experiment, root.path), judge)


def _tuned(trials: Sequence[Trial], inputs: Inputs) -> tuple[list[str], set[str]]:
    """What is wrong with trials, and with what was chosen and booked; what differs in their surroundings."""
    problems, surroundings = [], set()
    for trial in trials:
        if trial.folder.mark(FAILED):
            problems += trial.damage(FAILED)
            continue
        found, here = _trained(trial, inputs)
        surroundings |= here
        if not found:
            (scoring,) = trial.scorings(inputs)
            found, here = _steps(trial, scoring.steps())
            surroundings |= here
            found += _recomputed(scoring)
        problems += found
    if trials:
        problems += _chosen(trials, trials[0].root / FILE.parent)
    return problems, surroundings


def _chosen(trials: Sequence[Trial], folder: Path) -> list[str]:
    try:
        expected = {folder / method / "ledger.json": spent.as_dict() for method, spent in ledgers(trials).items()}
        expected[folder / FILE.name] = document(rows(trials), trials[0].experiment.command)
    except (OSError, UserError, KeyError, TypeError, ValueError) as error:  # files are missing, or were changed by hand
        return [f"{folder / FILE.name} can not be computed again from the trials: {error}"]
    return [
        f"{file} is not what the trials give"
        for file, content in expected.items()
        if not file.exists() or store.read_json(file) != content
    ]


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
            elif not (name == "judge" and arm.experiment.judge_engine):  # its weights are not hashed here
                problems.append(f"{arm.folder.path}: step {step} was made from something else: {text}")
    return problems, surroundings


def _ledger(arm: Arm) -> list[str]:
    file = arm.folder / "ledger.json"
    mark = arm.folder.mark(arm.stages[-1].name) if arm.stages else None
    if mark and file.exists() and store.read_json(file) != mark.facts["ledger"]:
        return [f"{file} is not what was booked when training ended"]
    return [] if file.exists() else [f"{file} is missing"]


def _recomputed(scoring: Scoring) -> list[str]:
    files = [scoring.samples_file, scoring.score_file]
    files += [scoring.judgments_file] if scoring.benchmark.needs_judge else []
    if not all(file.exists() for file in files):
        return []  # which is told already
    try:
        again = json.dumps(asdict(scoring.score()))
    except (UserError, KeyError, TypeError, ValueError) as error:  # samples that were changed by hand
        return [f"{scoring.score_file} can not be computed again from its samples: {error}"]
    if again != json.dumps(store.read_json(scoring.score_file)):  # texts: NaN is equal to itself
        return [f"{scoring.score_file} is not what its samples and judgments give"]
    return []


def _table(path: Path) -> list[str]:
    file = path / "table.json"
    if not file.exists():
        return [f"{file} is missing"]
    try:
        table = to_json(table_of(path))
    except UserError as error:
        return [str(error)]
    same = _rounded(json.dumps(table)) == _rounded(json.dumps(store.read_json(file)))
    return [] if same else [f"{file} is not what the stored scores give"]


def _rounded(text: str) -> Any:
    """A JSON document with numbers of 9 digits: sums of many differ in the last with the number of threads."""
    return json.loads(text, parse_float=lambda number: f"{float(number):.9g}")


def _number(arm: Arm, benchmark: str, problems: list[str], scoring: Scoring | None = None) -> dict[str, Any]:
    """scoring: None when training is not finished."""
    value = None
    if scoring and scoring.score_file.exists():
        value = store.read_json(scoring.score_file).get("value")
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
        if mark := arm.folder.mark(step):
            chain.append({"step": step, "key": mark.key, "files": mark.files, "depends_on": mark.depends_on})
    return chain
