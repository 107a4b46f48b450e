"""`harness bench table`: tables and the leaderboard of many stored runs, from a cold start of the command line.

The runs are synthetic: a base model that all share, and a method whose scores vary at random between runs.
"""

import json
import math
import os
import statistics as medians
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.benchmarks.base import Score, step_names
from harness.budget import Ledger
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import ArmFolder, RunFolder
from harness.progress import progress
from harness.results.folder import FORMAT
from harness.work import Nominal, Work

KINDS = (  # metric, values of answers, and judge of each suite; in the last, one answer in UNPARSED has none
    ("score (1-10)", np.arange(1.0, 10.5, 0.5), "made-up"),
    ("win rate %", np.array([0.1, 50.0, 99.9]), "made-up"),
    ("accuracy %", np.array([0.0, 100.0]), None),
    ("exact match %", np.array([0.0, 100.0]), None),
)
SUITES = dict(zip(Experiment().benchmark_names(), KINDS, strict=True))
UNPARSED = 60
METHOD = "dpo"
CAP = 1e12
PARAMETERS = 1_000_000
TRAINED = 161_700  # tokens, 97 % of the cap


def measure(runs: int, questions: int, seeds: int, rounds: int) -> dict[str, Any]:
    """Measure the seconds of each command."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        with progress("runs", 2 * runs) as advance:
            for number in range(runs):
                write_run(root / "results" / "runs" / f"run-{number}", questions, seeds, [number])
                advance(1)
            write_run(root / "one" / "runs" / "run", questions, seeds, range(runs))
            advance(runs)
        folders = [f"results/runs/run-{number}" for number in range(runs)]
        commands = {
            f"table of a run with {runs} methods": ["table", "one/runs/run"],
            f"table of {runs} runs": ["table", *folders],
            f"leaderboard of {runs} runs": ["leaderboard"],
        }
        seconds = {name: [_seconds(command, root) for _ in range(rounds)] for name, command in commands.items()}
    return {
        "runs": runs,
        "questions": questions,
        "seeds": seeds,
        "commands": {
            name: {"median": medians.median(took), "min": min(took), "max": max(took)} for name, took in seconds.items()
        },
    }


def _seconds(command: list[str], place: Path) -> float:
    package = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "harness", *command], cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def write_run(path: Path, questions: int, seeds: int, numbers: Any) -> None:
    """Write the scores, marks and ledgers of a finished run of the base model and variants of a method.

    Args:
        numbers: one per variant, which seeds its scores.
    """
    arms = [f"{METHOD}-{number}" for number in numbers]
    experiment = Experiment(
        name=path.name,
        methods=tuple(f"{arm}={METHOD}" for arm in arms),
        benchmarks=tuple(SUITES),
        seeds=seeds,
        budget=f"{CAP:g}",
    )
    run = RunFolder(path)
    store.write_text(run.experiment, yaml.safe_dump(experiment.as_dict(), sort_keys=False))
    store.write_json(run.versions, {"format": FORMAT, "harness": "bench"})
    for number, arm in [(None, "base"), *zip(numbers, arms, strict=True)]:
        for seed in range(seeds):
            folder = run.arm(arm, seed)
            for suite in SUITES:
                _write_score(folder, suite, questions, number, seed)
            ledger = Ledger(CAP)
            if number is not None:
                ledger.charge("train", Nominal(PARAMETERS).training(Work(read=TRAINED)), trained_tokens=TRAINED)
            _write(folder.ledger, ledger.as_dict())
            _write(folder.seconds, {"training": 30.0, "scoring": 10.0})
    _write(run.index, {"format": FORMAT, "key": path.name, "files": {}})


def _write_score(folder: ArmFolder, suite: str, questions: int, number: int | None, seed: int) -> None:
    metric, kinds, judge = SUITES[suite]
    variant = 0 if number is None else 1 + number
    hard = np.random.default_rng([1, len(suite)]).normal(size=questions)  # the same questions for all
    rng = np.random.default_rng([2, variant, seed, len(suite)])
    skill = 0.0 if number is None else 0.5 + 0.5 * math.sin(number)
    places = (hard + skill + rng.normal(size=questions) + 2) / 4 * len(kinds)
    values = kinds[np.clip(places.astype(int), 0, len(kinds) - 1)]
    known = {str(i): float(value) for i, value in enumerate(values)}
    if suite == [*SUITES][-1]:
        for i in rng.choice(questions, questions // UNPARSED, replace=False):
            del known[str(i)]
    mean = sum(known.values()) / len(known)
    score = Score(suite, metric, mean, known, {}, questions, 0, questions - len(known), judge)
    _write(folder.score(suite), vars(score))
    samples_step, score_step = step_names(suite)
    model = {"weights": "0" * 16}
    asked: dict[str, Any] = {
        "questions": suite,
        "settings": {"seed": seed},
        "option files": {},
        "model": model,
        "packages": {},
    }
    asked |= {"reference": None if number is None else model, "device": "cpu", "code": suite}
    scored: dict[str, Any] = {"judge": judge, "judging": {}, "packages": {}, "code": suite}
    for step, depends_on in ((samples_step, asked), (score_step, scored)):
        _write(folder.mark_file(step), {"key": "", "depends_on": depends_on, "files": {}, "facts": {}})


def _write(file: Path, value: Any) -> None:
    """Write like the store, without waiting for the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")
