"""What is kept of a run to hold later ones against: the scores of every question, measures of training, digests."""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Score, step_names
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import rows, sources, store
from harness.files.marks import Folder
from harness.regression import measures
from harness.results.folder import StoredRun
from harness.runs.run import arms_of
from harness.runs.verify import verify
from harness.statistics.intervals import Grid, grid

FORMAT = 1
LEAST_SEEDS = 5  # fewer do not say how much runs differ
FREE = (  # of the options
    *("name", "seeds", "methods", "judge_log", "batch_size", "judge_concurrency", "judge_missing", "accept_missing"),
    "report_to",
)


@dataclass(frozen=True)
class Seed:
    """One arm with one seed.

    scores: benchmark -> question -> value; weights: the same, of the questions. digests: of what must be equal, to the
    byte, where the same program runs again. measures: see `harness.regression.measures`.
    """

    scores: dict[str, dict[str, float]]
    weights: dict[str, dict[str, float]]
    digests: dict[str, str]
    measures: dict[str, float]


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run: what it is of (equal for runs that can be compared), and its arms by name and seed."""

    of: dict[str, Any]
    arms: dict[str, dict[int, Seed]]

    def grid(self, arm: str, benchmark: str) -> Grid:
        seeds = self.arms[arm]
        return grid(
            {seed: each.scores.get(benchmark, {}) for seed, each in seeds.items()},
            {seed: each.weights.get(benchmark, {}) for seed, each in seeds.items()},
        )

    def of_seeds(self, chosen: Container[int]) -> "MeasuredRun":
        """The same with these seeds alone."""
        arms = {
            name: {seed: each for seed, each in seeds.items() if seed in chosen} for name, seeds in self.arms.items()
        }
        return MeasuredRun(self.of, arms)


def measure(path: Path) -> MeasuredRun:
    """
    Raises:
        UserError: when the folder holds no finished run.
    """
    run = StoredRun.read(path)
    experiment = run.experiment
    arms: dict[str, dict[int, Seed]] = {}
    folders = arms_of(experiment, Folder(path))
    scores = {row.method: row.scores for row in run.rows}
    for arm in folders:
        own = {name: by_seed[arm.seed] for name, by_seed in scores[arm.name].items() if arm.seed in by_seed}
        arms.setdefault(arm.name, {})[arm.seed] = _seed(arm.folder, own)
    return MeasuredRun({"options": _options(experiment), **_made_of(folders[0].folder, experiment)}, arms)


def shared(experiment: Experiment) -> dict[str, Any]:
    """The options whose values all runs that are compared must share."""
    return {name: value for name, value in experiment.as_dict().items() if name not in FREE}


def _options(experiment: Experiment) -> dict[str, Any]:
    """Those that runs must share to be compared; the options of each method by its name."""
    methods = {arm: vars(experiment.method_options(arm)) for arm in experiment.arms()}
    return shared(experiment) | {"options": methods}


def _made_of(base: Folder, experiment: Experiment) -> dict[str, Any]:
    """The model that the run started from, and its questions."""
    marks = {name: base.mark(step_names(name)[0]) for name in experiment.benchmarks}
    return {
        "model": next(mark.depends_on["model"] for mark in marks.values() if mark),
        "questions": {name: mark.depends_on["questions"] for name, mark in marks.items() if mark},
    }


def _seed(folder: Folder, by_benchmark: Mapping[str, Score]) -> Seed:
    scores, weights, digests = {}, {}, {}
    for name, score in by_benchmark.items():
        scores[name] = score.values
        weights[name] = {} if set(score.weights.values()) <= {1.0} else score.weights
        digests[f"scores/{name}"] = store.digest([score.value, score.values])
    for file in sorted((folder / "preferences").glob("*.jsonl")):
        digests[f"preferences/{file.stem}"] = store.file_digest(file)[:16]
    ledger = store.read_json(folder / "ledger.json")["total"]
    digests["ledger"] = store.digest({name: amount for name, amount in ledger.items() if name != "seconds"})
    return Seed(scores, weights, digests, measures.of_arm(folder))


def write(path: Path, run: Path, command: str) -> MeasuredRun:
    """Makes the reference of a run.

    Raises:
        UserError: when the run is not finished, has too few seeds, or is not as its steps have left it.
    """
    measured = measure(run)
    seeds = {seed for each in measured.arms.values() for seed in each}
    if len(seeds) < LEAST_SEEDS:
        raise UserError(
            f"{run} has {len(seeds)} seeds: a reference needs at least {LEAST_SEEDS}, to know how much runs differ "
            f"(harness run with --seeds {LEAST_SEEDS} or more)"
        )
    if problems := verify(run)["problems"]:
        raise UserError(f"{run} can not be a reference: {problems[0]} (harness verify {run} has all)")
    versions = store.read_json(run / "versions.json")
    code = sources.of_packages(*sources.OURS)
    made = {**versions, "command": command, "date": date.today().isoformat(), "code": code}
    questions: dict[str, dict[str, None]] = {}
    for by_seed in measured.arms.values():
        for each in by_seed.values():
            for name, values in each.scores.items():
                questions.setdefault(name, {}).update(dict.fromkeys(values))
    asked = {name: list(ids) for name, ids in questions.items()}
    arms = {
        name: {str(seed): _packed(each, asked) for seed, each in by_seed.items()}
        for name, by_seed in measured.arms.items()
    }
    store.write_text(
        path, _in_lines({"format": FORMAT, "made": made, "of": measured.of, "questions": asked, "arms": arms})
    )
    return measured


def _packed(seed: Seed, questions: dict[str, list[str]]) -> dict[str, Any]:
    """Values in the order of the questions, null where there is none; weights are left out where they are 1."""
    scores = {name: [values.get(each) for each in questions[name]] for name, values in seed.scores.items()}
    weights = {name: [own.get(each) for each in questions[name]] for name, own in seed.weights.items() if own}
    return {"scores": scores, "weights": weights, "digests": seed.digests, "measures": seed.measures}


def _unpacked(packed: dict[str, Any], questions: dict[str, list[str]]) -> Seed:
    def by_question(lists: dict[str, list]) -> dict[str, dict[str, float]]:
        return {
            name: {each: value for each, value in zip(questions[name], values, strict=True) if value is not None}
            for name, values in lists.items()
        }

    weights = {name: {} for name in packed["scores"]} | by_question(packed["weights"])
    return Seed(by_question(packed["scores"]), weights, packed["digests"], packed["measures"])


def _in_lines(found: dict[str, Any]) -> str:
    """JSON with a line for each seed of an arm, so that a change shows what has changed."""
    arms = found.pop("arms")
    lines = json.dumps(found, indent=1, ensure_ascii=False)[:-2]
    parts = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(
            f"   {json.dumps(seed)}: {json.dumps(each, separators=(',', ':'))}" for seed, each in by_seed.items()
        )
        + "\n  }"
        for name, by_seed in arms.items()
    ]
    return f'{lines},\n "arms": {{\n' + ",\n".join(parts) + "\n }\n}\n"


def read(path: Path) -> MeasuredRun:
    """
    Raises:
        UserError: when the file is absent or no reference of this format.
    """
    if not path.is_file():
        raise UserError(f"no reference at {path}: give a file, or write it from a run: harness check RUN --update")
    found = rows.read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no reference of format {FORMAT}: write it again with harness check RUN --update")
    try:
        arms = {
            name: {int(seed): _unpacked(each, found["questions"]) for seed, each in by_seed.items()}
            for name, by_seed in found["arms"].items()
        }
        return MeasuredRun(found["of"], arms)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is damaged: write it again with harness check RUN --update") from None
