"""The reference that later runs are compared with: scores of every question, measures of training, digests."""

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Score, step_names
from harness.budget import Ledger
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import rows, sources, store
from harness.files.folders import ArmFolder, RunFolder
from harness.regression import measures
from harness.results.folder import StoredRun
from harness.runs.verify import verify
from harness.statistics.grids import Grid, grid

FORMAT = 1
LEAST_SEEDS = 5  # fewer do not show how much runs differ
FREE = (  # options that may differ between compared runs
    *("name", "seeds", "methods", "judge_log", "batch_size", "judge_concurrency", "judge_missing", "accept_missing"),
    "report_to",
)


@dataclass(frozen=True)
class Seed:
    """One arm with one seed.

    scores: benchmark -> question -> value. weights: benchmark -> question -> weight.
    digests: of everything that is equal to the byte when the same program runs again.
    measures: see `harness.regression.measures`.
    """

    scores: dict[str, dict[str, float]]
    weights: dict[str, dict[str, float]]
    digests: dict[str, str]
    measures: dict[str, float]


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run.

    of: model, questions and options, equal for runs that can be compared. arms: name -> seed -> arm.
    defaults: arm -> the defaults of its method's options, which a reference that is older than an option lacks; not
        stored with a reference.
    """

    of: dict[str, Any]
    arms: dict[str, dict[int, Seed]]
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def grid(self, arm: str, benchmark: str) -> Grid:
        seeds = self.arms[arm]
        return grid(
            {seed: each.scores.get(benchmark, {}) for seed, each in seeds.items()},
            {seed: each.weights.get(benchmark, {}) for seed, each in seeds.items()},
        )

    def of_seeds(self, chosen: Container[int]) -> "MeasuredRun":
        """This run with these seeds only."""
        arms = {
            name: {seed: each for seed, each in seeds.items() if seed in chosen} for name, seeds in self.arms.items()
        }
        return replace(self, arms=arms)


def measure(path: Path) -> MeasuredRun:
    """Read and measure a run.

    Raises:
        UserError: when the folder has no finished run.
    """
    run = StoredRun.read(path)
    experiment, folder = run.experiment, run.folder
    arms: dict[str, dict[int, Seed]] = {}
    for row in run.rows:
        for seed, ledger in row.ledgers.items():
            scores = {name: by_seed[seed] for name, by_seed in row.scores.items() if seed in by_seed}
            arms.setdefault(row.method, {})[seed] = _seed(folder.arm(row.method, seed), scores, ledger)
    first = folder.arm(run.rows[0].method, 0)
    defaults = {arm: vars(experiment.method(arm).Options()) for arm in experiment.arms()}
    return MeasuredRun({"options": _options(experiment), **_made_of(first, experiment)}, arms, defaults)


def shared(experiment: Experiment) -> dict[str, Any]:
    """The options that compared runs must share."""
    return {name: value for name, value in experiment.as_dict().items() if name not in FREE}


def _options(experiment: Experiment) -> dict[str, Any]:
    """The options that compared runs must share, with all options of each method."""
    methods = {arm: vars(experiment.method_options(arm)) for arm in experiment.arms()}
    return shared(experiment) | {"options": methods}


def _made_of(base: ArmFolder, experiment: Experiment) -> dict[str, Any]:
    """The model that the run started from, and its questions."""
    marks = {name: base.mark(step_names(name)[0]) for name in experiment.benchmark_names()}
    return {
        "model": next(mark.depends_on["model"] for mark in marks.values() if mark),
        "questions": {name: mark.depends_on["questions"] for name, mark in marks.items() if mark},
    }


def _seed(folder: ArmFolder, by_benchmark: Mapping[str, Score], ledger: Ledger) -> Seed:
    scores: dict[str, dict[str, float]] = {}
    weights: dict[str, dict[str, float]] = {}
    digests: dict[str, str] = {}
    for name, score in by_benchmark.items():
        scores[name] = score.values
        weights[name] = {} if set(score.weights.values()) <= {1.0} else score.weights
        digests[f"scores/{name}"] = store.digest([score.value, score.values])
    for file in folder.all_preferences():
        digests[f"preferences/{file.stem}"] = store.file_digest(file)[:16]
    spent = asdict(ledger.total)
    digests["ledger"] = store.digest({name: amount for name, amount in spent.items() if name != "seconds"})
    return Seed(scores, weights, digests, measures.of_arm(folder))


def write(path: Path, run: Path, command: str) -> MeasuredRun:
    """Write the reference of a run.

    Raises:
        UserError: when the run is not finished, has too few seeds, or does not verify.
    """
    measured = measure(run)
    seeds = {seed for each in measured.arms.values() for seed in each}
    if len(seeds) < LEAST_SEEDS:
        raise UserError(
            f"{run} has {len(seeds)} seeds: a reference needs at least {LEAST_SEEDS}, to show how much runs differ "
            f"(harness run with --seeds {LEAST_SEEDS} or more)"
        )
    if problems := verify(run)["problems"]:
        raise UserError(f"{run} cannot be a reference: {problems[0]} (harness verify {run} lists all problems)")
    versions = store.read_json(RunFolder(run).versions)
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
    """Values in the order of the questions, null where there is none; weights that are all 1 are left out."""
    scores = {name: [values.get(each) for each in questions[name]] for name, values in seed.scores.items()}
    weights = {name: [known.get(each) for each in questions[name]] for name, known in seed.weights.items() if known}
    return {"scores": scores, "weights": weights, "digests": seed.digests, "measures": seed.measures}


def _unpacked(packed: dict[str, Any], questions: dict[str, list[str]]) -> Seed:
    def by_question(lists: dict[str, list[float | None]]) -> dict[str, dict[str, float]]:
        return {
            name: {each: value for each, value in zip(questions[name], values, strict=True) if value is not None}
            for name, values in lists.items()
        }

    weights: dict[str, dict[str, float]] = {name: {} for name in packed["scores"]}
    weights |= by_question(packed["weights"])
    return Seed(by_question(packed["scores"]), weights, packed["digests"], packed["measures"])


def _in_lines(found: dict[str, Any]) -> str:
    """JSON with one line per seed of an arm, for readable diffs."""
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
    """Read a reference.

    Raises:
        UserError: when the file is missing or is not a reference of this format.
    """
    if not path.is_file():
        raise UserError(f"no reference at {path}: give a file, or write it from a run: harness check RUN --update")
    found = rows.read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is not a reference of format {FORMAT}: write it again with harness check RUN --update")
    try:
        arms = {
            name: {int(seed): _unpacked(each, found["questions"]) for seed, each in by_seed.items()}
            for name, by_seed in found["arms"].items()
        }
        return MeasuredRun(found["of"], arms)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is damaged: write it again with harness check RUN --update") from None
