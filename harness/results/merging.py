"""Several finished runs in one table; runs that cannot be compared are refused with the reason.

Runs can be compared when they start from the same model and asked the same questions in the same way, with the same
judge. The marks of their steps record all of that by name. Budgets, seeds, training data and options may differ: they
are what is compared, or the rows and notes name them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.benchmarks.base import Score, step_names
from harness.benchmarks.loading import titles
from harness.errors import UserError
from harness.files.marks import differences
from harness.results.folder import StoredRun
from harness.tables.build import build
from harness.tables.schema import ResultRow, Table

BASE = "base"
MOST_NAMED = 10  # runs that the notes name
NOT_COMPARED = (  # options that change no number, or that the table shows in another way
    *("name", "methods", "benchmarks", "seeds", "judge_concurrency", "judge_rate", "judge_max_calls"),
    *("judge_max_cost", "judge_price", "judge_log", "judge_missing", "accept_missing", "report_to", "options", "scale"),
)


@dataclass(frozen=True)
class Basis:
    """What the scores of a run rest on, by name.

    model, benchmarks: the start model, and how each benchmark was asked and judged; equal for runs that can be
        compared.
    surroundings: packages, code and device, which may differ.
    """

    testbed: bool
    model: dict[str, str]
    benchmarks: dict[str, dict[str, Any]]
    surroundings: dict[str, Any]

    @classmethod
    def of(cls, run: StoredRun) -> "Basis":
        """
        Raises:
            UserError: when the marks of the run's steps are missing.
        """
        model: dict[str, str] = {}
        benchmarks: dict[str, dict[str, Any]] = {}
        surroundings: dict[str, Any] = {}
        for name in run.experiment.benchmark_names():
            dependencies = _dependencies(run, name)
            if dependencies is None:  # every arm leaves it out
                continue
            samples, scored = dependencies
            settings = {key: value for key, value in samples["settings"].items() if key != "seed"}
            model = samples["reference"] or samples["model"]
            benchmarks[name] = {
                "judge": scored["judge"],
                "judge is": {name: scored.get(name) for name in ("judge endpoint", "judge model")},
                "settings": settings,
                "questions": samples["questions"],
                "option files": samples["option files"],
                "judging": scored["judging"] if scored["judge"] else {},
            }
            surroundings["packages"] = samples["packages"] | scored["packages"]
            surroundings["device"] = samples["device"]
            surroundings.setdefault("code", {})[name] = [samples["code"], scored["code"]]
        return cls(run.testbed, model, benchmarks, surroundings)

    @property
    def key(self) -> dict[str, Any]:
        return {"testbed": self.testbed, "model": self.model, "benchmarks": self.benchmarks}


def _dependencies(run: StoredRun, benchmark: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What the answers to a benchmark and their score depend on, from the first arm that has both."""
    samples_step, score_step = step_names(benchmark)
    for arm in run.arms(seed=0):
        samples, scored = run.depends_on(arm, samples_step), run.depends_on(arm, score_step)
        if samples and scored:
            return samples, scored
        if not scored:
            raise UserError(f"{arm.path}: has no mark of step {score_step}, which records what its scores rest on")
    return None


def merge(
    runs: Sequence[StoredRun], baseline: str = BASE, title: str = "", bases: Sequence[Basis] | None = None
) -> Table:
    """One table of several runs.

    A method that several runs have is named RUN/METHOD, except a base model whose scores are the same in all.

    Args:
        bases: those of the runs, when the caller has them.

    Raises:
        UserError: when two runs cannot be compared, naming both and what differs, or none has the baseline.
    """
    names = Counter(run.name for run in runs)
    if twice := [name for name, times in names.items() if times > 1]:
        raise UserError(f"{twice[0]} is given twice: runs in one table need different names")
    bases = bases or [Basis.of(run) for run in runs]
    check_comparable(runs, bases)
    rows = merge_rows(runs)
    known = [row.method for row in rows]
    if baseline not in known and (of_runs := [name for name in known if name.endswith(f"/{baseline}")]):
        if baseline != BASE:
            raise UserError(f"several runs have {baseline}: give --baseline {of_runs[0]} or another of them")
        baseline = of_runs[0]
    return build(
        rows,
        baseline,
        title=title or " + ".join(run.name for run in runs[:MOST_NAMED]) + " …" * (len(runs) > MOST_NAMED),
        testbed=runs[0].testbed,
        titles={name: title for run in runs for name, title in titles(run.experiment).items()},
        limit=runs[0].experiment.limit,
        remarks=list(_remarks(runs, bases)),
    )


def check_comparable(runs: Sequence[StoredRun], bases: Sequence[Basis]) -> None:
    """
    Raises:
        UserError: naming two runs and why they cannot be compared.
    """
    first_with: dict[str, int] = {}
    for place, (run, basis) in enumerate(zip(runs, bases, strict=True)):
        if reason := _other_model(bases[0], basis):
            raise UserError(f"{runs[0].path} and {run.path} cannot be compared: {reason}")
        common = [name for name in basis.benchmarks if name in first_with]
        if place and not common:
            raise UserError(f"{runs[0].path} and {run.path} cannot be compared: they have no benchmark in common")
        for name in common:
            earlier = first_with[name]
            if reason := _otherwise_asked(name, bases[earlier].benchmarks[name], basis.benchmarks[name]):
                raise UserError(f"{runs[earlier].path} and {run.path} cannot be compared: {reason}")
        for name in basis.benchmarks:
            first_with.setdefault(name, place)


def _other_model(one: Basis, other: Basis) -> str | None:
    if one.testbed != other.testbed:
        return "one was scored on the testbed's own suites, the other on real benchmarks"
    for name, before, now in differences(one.model, other.model) if one.model != other.model else ():
        return f"they start from different models ({name} {before} and {now})"
    return None


def _otherwise_asked(benchmark: str, one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Why scores of a benchmark cannot be compared; None where they can."""
    if one == other:
        return None
    if one["judge"] != other["judge"]:
        return f"{benchmark} was judged by {one['judge']} in one and by {other['judge']} in the other"
    for name, before, now in differences(one["judge is"], other["judge is"]):
        return f"{benchmark} was judged by {one['judge']} in both, but not by the same one: {name} {before} and {now}"
    for part, said in (
        ("settings", f"{benchmark} was answered with a different"),
        ("questions", f"{benchmark} has different questions:"),
        ("option files", f"{benchmark} was asked with different files:"),
        ("judging", f"{benchmark} was judged with a different"),
    ):
        for name, before, now in differences(one[part], other[part], "" if isinstance(one[part], dict) else part):
            return f"{said} {name} ({before} and {now})"
    return None


def merge_rows(runs: Sequence[StoredRun]) -> list[ResultRow]:
    """The rows of all runs under distinct names."""
    bases = [row for run in runs for row in run.rows if row.method == BASE]
    merged = _one_base(bases)
    times = Counter(row.method for run in runs for row in run.rows)
    rows = [merged] if merged else []
    for run in runs:
        for row in run.rows:
            if row.method == BASE and merged:
                continue
            name = f"{run.name}/{row.method}" if times[row.method] > 1 else row.method
            rows.append(replace(row, method=name, run=run.name))
    return rows


def _one_base(rows: Sequence[ResultRow]) -> ResultRow | None:
    """One row for the base model, with the seeds and benchmarks of all its rows; None where their scores differ."""
    first = rows[0]
    scores = {name: dict(by_seed) for name, by_seed in first.scores.items()}
    ledgers, seconds = dict(first.ledgers), dict(first.seconds)
    for row in rows[1:]:
        for name, by_seed in row.scores.items():
            known = scores.setdefault(name, {})
            for seed, score in by_seed.items():
                if not _same(known.setdefault(seed, score), score):
                    return None
        ledgers, seconds = row.ledgers | ledgers, row.seconds | seconds
    return replace(first, scores=scores, ledgers=ledgers, seconds=seconds)


def _same(one: Score, other: Score) -> bool:
    if one is other:
        return True
    names = ("values", "weights", "questions", "missing", "unparsed")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _remarks(runs: Sequence[StoredRun], bases: Sequence[Basis]) -> Iterator[str]:
    """How the options and versions of each run differ from those of the first."""
    runs_by_change: dict[str, list[str]] = {}
    for run, basis in zip(runs[1:], bases[1:], strict=True):
        parts = _options(runs[0], run)
        if basis.surroundings != bases[0].surroundings:
            changed = differences(bases[0].surroundings, basis.surroundings)
            kinds = dict.fromkeys(
                name.rpartition(".")[2] if "packages" in name else "code" if "code" in name else name
                for name, _, _ in changed
            )
            parts.append(f"made with other versions ({', '.join(kinds)})")
        if parts:
            runs_by_change.setdefault("; ".join(parts), []).append(run.name)
    for place, (change, names) in enumerate(runs_by_change.items()):
        if place == MOST_NAMED:
            yield f"{len(runs_by_change) - MOST_NAMED} more kinds of runs differ from {runs[0].name}."
            return
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield f"Compared with {runs[0].name}, {', '.join(names[:MOST_NAMED])}{more}: {change}."


def _options(one: StoredRun, other: StoredRun) -> list[str]:
    """The options of the other run that differ from the first."""
    before, now = _chosen(one), _chosen(other)
    if before == now:
        return []
    return [f"{name} {value} instead of {first}" for name, first, value in differences(before, now)]


def _chosen(run: StoredRun) -> dict[str, Any]:
    chosen = {name: value for name, value in run.experiment.as_dict().items() if name not in NOT_COMPARED}
    return chosen | {
        f"{name}.{option}": value
        for name, changes in run.experiment.options.items()
        for option, value in changes.items()
    }
