"""A finished run's stored answers, judged by another judge, beside the judgments that the run has.

Nothing of the run is changed and no answer is made again. What the other judge says is kept in rejudged/JUDGE in the
run folder: its log, judgments and scores, and a table whose columns name both judges. Their scores are never pooled.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Score
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import sources, store
from harness.files.folders import RunFolder
from harness.judge_audit.chosen import check_given, folder_name, load_chosen
from harness.judges.base import Judge
from harness.models import fingerprints
from harness.progress import progress
from harness.results.folder import StoredRun
from harness.runs.inputs import Inputs, data_folder
from harness.runs.run import arms_of
from harness.runs.scoring import SCORERS, Scoring, scored
from harness.signals import stoppable
from harness.statistics import intervals
from harness.statistics.grids import Grid
from harness.statistics.intervals import Difference, Interval
from harness.tables.build import grid_of
from harness.tables.markdown import escape

MOST_FAILED = 0.02  # share of the judgments of an arm: with more, scores are not compared
REPORT = "rejudged.json"


def rejudge(run_folder: Path, given: Experiment) -> dict[str, Any]:
    """Judges the stored answers of a finished run; what was judged before is not asked again.

    Args:
        given: the experiment that holds the options of the other judge, and no others of it count.

    Returns:
        run, judges (of the run, the other), folder, left_out (benchmarks without a judge), benchmarks (see `compared`),
        verdict; written to rejudged/JUDGE/rejudged.json too.

    Raises:
        UserError: for no judge, a run that is not finished or has no judged benchmark, answers or questions that are
            not those of the run any more, and a judge that cannot be reached.
        Stopped: for SIGINT and SIGTERM.
    """
    check_given(given)
    run = StoredRun.read(run_folder)
    inputs = Inputs(run.experiment, (), (), data_folder(run.experiment, run_folder), None)
    judged, left_out = _judged(run.experiment, inputs, run_folder)
    if not judged:
        raise UserError(f"{run_folder}: no benchmark of this run has a judge ({', '.join(left_out)} need none)")
    for scoring in judged:
        _check_answers(scoring)
    root = RunFolder(run_folder).rejudged(folder_name(given))
    with stoppable(root.path), store.only_writer(root.path):
        judge = load_chosen(given, root)
        scores: dict[str, dict[str, dict[int, Score]]] = {}
        for scoring in judged:
            arm = scoring.arm
            scores.setdefault(scoring.name, {}).setdefault(arm.name, {})[arm.seed] = _score(scoring, judge, root)
        benchmarks = [
            compared(name, {row.method: row.scores[name] for row in run.rows if row.scores.get(name)}, by_method)
            for name, by_method in scores.items()
        ]
        report = {
            "run": str(run_folder),
            "folder": str(root.path),
            "judge": judge.name,
            "endpoint": getattr(judge, "endpoint", None),
            "left_out": left_out,
            "benchmarks": benchmarks,
            "verdict": " ".join(each["verdict"] for each in benchmarks),
        }
        report = store.plain(report)
        store.write_json(root / REPORT, report)
        store.write_text(root.table_markdown, to_markdown(report))
    return report


def _judged(experiment: Experiment, inputs: Inputs, run_folder: Path) -> tuple[list[Scoring], list[str]]:
    """What has judgments; and the names of the benchmarks that need no judge."""
    scorings = [scoring for arm in arms_of(experiment, RunFolder(run_folder)) for scoring in arm.scorings(inputs)]
    left_out = dict.fromkeys(each.name for each in scorings if not each.benchmark.needs_judge)
    return [each for each in scorings if each.benchmark.needs_judge], list(left_out)


def _check_answers(scoring: Scoring) -> None:
    """
    Raises:
        UserError: when answers or questions are not those that the run has judged.
    """
    folder, step = scoring.folder, scoring.samples_step
    mark = folder.mark(step)
    if mark is None or not scoring.score_file.exists():
        raise UserError(
            f"{folder.path}: {scoring.name} is not judged: finish the run first (harness run with the same options)"
        )
    folder.check(step)
    if mark.depends_on["questions"] != store.digest(scoring.items):
        raise UserError(
            f"{folder.path}: the questions of {scoring.name} are not those that were answered: put the files of "
            f"{scoring.inputs.data_dir} back"
        )


def _score(scoring: Scoring, judge: Judge, root: RunFolder) -> Score:
    """By the other judge; read where it was judged so before."""
    arm = scoring.arm
    folder = root.arm(arm.name, arm.seed)
    score_file = folder.score(scoring.name)
    judgments_file = folder.judgments(scoring.name)
    roots = (sources.SCORING, sources.Part.of(scoring.benchmark, sources.ANSWERS), type(judge).__module__)
    depends_on = {
        "samples": list(scoring.folder.mark(scoring.samples_step).files.values()),
        "judge": judge.name,
        "endpoint": getattr(judge, "endpoint", None),
        "judging": asdict(scoring.judging),
        "packages": fingerprints.of_packages(*SCORERS, *sources.packages(*roots)),
        "code": sources.digest(*roots),
    }
    mark = folder.mark(scoring.score_step)
    if mark and mark.key == store.digest(depends_on) and not list(folder.damage(scoring.score_step)):
        return Score(**store.read_json(score_file))
    samples = store.read_jsonl(scoring.samples_file)
    with progress(f"{arm.label} {scoring.name}: judge", scoring.benchmark.turns * len(scoring.items)) as advance:
        judgments = scoring.benchmark.judge(scoring.items, samples, judge, scoring.judging, advance)
    store.write_jsonl(judgments_file, judgments)
    judged = store.read_jsonl(judgments_file)
    score = scored(scoring.benchmark, scoring.items, samples, judged, scoring.inputs.data_dir)
    _check_failed(arm.label, score, scoring.benchmark.turns * len(scoring.items), judgments)
    store.write_json(score_file, asdict(score))
    folder.finish(scoring.score_step, depends_on, [score_file, judgments_file])
    return score


def _check_failed(label: str, score: Score, asked: int, judgments: Sequence[dict]) -> None:
    """
    Raises:
        UserError: when more judgments failed than may be left out.
    """
    if score.missing > MOST_FAILED * asked:
        error = next((row["error"] for row in judgments if row.get("error")), "no reply")
        raise UserError(
            f"{label}, {score.benchmark}: {score.missing} of {asked} judgments failed ({error}): the same command asks "
            "for these again, and keeps the others"
        )


@dataclass(frozen=True)
class RejudgedColumn:
    """Scores of all methods on a benchmark by one judge."""

    judge: str | None
    grids: dict[str, Grid]
    intervals: dict[str, Interval | None]
    missing: dict[str, int]
    unparsed: dict[str, int]

    @classmethod
    def of(cls, scores: dict[str, dict[int, Score]]) -> "RejudgedColumn":
        judges = dict.fromkeys(score.judge for by_seed in scores.values() for score in by_seed.values())
        grids = {method: grid_of(by_seed) for method, by_seed in scores.items()}
        found = dict(zip(grids, intervals.intervals(list(grids.values())), strict=True))
        missing, unparsed = (
            {method: sum(getattr(score, name) for score in by_seed.values()) for method, by_seed in scores.items()}
            for name in ("missing", "unparsed")
        )
        return cls(" and ".join(sorted(filter(None, judges))) or None, grids, found, missing, unparsed)


def compared(name: str, before: dict[str, dict[int, Score]], after: dict[str, dict[int, Score]]) -> dict[str, Any]:
    """One benchmark by two judges.

    Args:
        before, after: method -> seed -> score, by the run's judge and by the other.

    Returns:
        benchmark, metric, judges (2 names), methods: a row for each with method, and by judge value, interval, rank,
        missing and unparsed; tau, p_value (Kendall's tau-b between the two orders, exact where there are no ties),
        changed (methods with another rank), reversed (pairs that the judges order differently: better by the first,
        better by the second, distinguished: each judge's 95 % interval of the difference excludes 0), holds, verdict.
    """
    first, second = RejudgedColumn.of(before), RejudgedColumn.of(after)
    methods = [method for method in before if first.intervals[method] and second.intervals[method]]
    without = [method for method in before if method not in methods]
    values = [[each.intervals[method].value for method in methods] for each in (first, second)]
    places = [ranks(each) for each in values]
    tau, p_value = kendall(*values)
    rows = [
        {"method": method, "by": [_cell(each, method, places[i][place]) for i, each in enumerate((first, second))]}
        for place, method in enumerate(methods)
    ]
    exchanged = _reversed(methods, values, first, second)
    changed = [method for place, method in enumerate(methods) if places[0][place] != places[1][place]]
    report = {
        "benchmark": name,
        "metric": next(score.metric for by_seed in before.values() for score in by_seed.values()),
        "judges": [first.judge, second.judge],
        "methods": rows,
        "without_verdicts": without,
        "tau": tau,
        "p_value": p_value,
        "changed": changed,
        "reversed": exchanged,
        "holds": None if len(methods) < 2 else not changed,
    }
    return report | {"verdict": _verdict(report)}


def ranks(values: Sequence[float]) -> list[int]:
    """1 for the highest; equal values share the better rank."""
    return [1 + sum(other > value for other in values) for value in values]


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, float | None]:
    """Kendall's tau-b and its two-sided p-value, (None, None) where there are fewer than two, or all are equal."""
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None, None
    from scipy.stats import kendalltau

    found = kendalltau(first, second)
    return float(found.statistic), float(found.pvalue)


def _cell(judged: RejudgedColumn, method: str, rank: int) -> dict[str, Any]:
    found = judged.intervals[method]
    return {
        "value": found.value,
        "interval": [found.low, found.high],
        "rank": rank,
        "missing": judged.missing[method],
        "unparsed": judged.unparsed[method],
    }


def _reversed(
    methods: Sequence[str], values: list[list[float]], first: RejudgedColumn, second: RejudgedColumn
) -> list[dict[str, Any]]:
    """Pairs of methods in which one judge has the one ahead, and the other judge the other."""
    rows = []
    for i, j in combinations(range(len(methods)), 2):
        if (values[0][i] - values[0][j]) * (values[1][i] - values[1][j]) < 0:
            ahead, behind = (methods[i], methods[j]) if values[0][i] > values[0][j] else (methods[j], methods[i])
            sides = [(each.grids[ahead], each.grids[behind]) for each in (first, second)]
            clear = [_excludes_0(found) for found in intervals.differences(sides)]
            rows.append({"first": ahead, "second": behind, "distinguished": clear})
    return rows


def _excludes_0(found: Difference | None) -> bool:
    return found is not None and (found.low > 0 or found.high < 0)


def _verdict(report: dict[str, Any]) -> str:
    name, methods, tau = report["benchmark"], report["methods"], report["tau"]
    if report["without_verdicts"]:
        name += f" (without {', '.join(report['without_verdicts'])}, which has no verdict)"
    if len(methods) < 2:
        return f"{name}: fewer than two methods have verdicts of both judges: there is no order to compare."
    shown = "has no value" if tau is None else f"is {tau:.2f}"
    if report["holds"]:
        return f"{name}: the order of the {len(methods)} methods holds (Kendall's tau {shown})."
    ranks_by = {row["method"]: [each["rank"] for each in row["by"]] for row in methods}
    moves = ", ".join(f"{method} {ranks_by[method][0]} to {ranks_by[method][1]}" for method in report["changed"])
    pairs = len(methods) * (len(methods) - 1) // 2
    contradictions = [each for each in report["reversed"] if all(each["distinguished"])]
    text = (
        f"{name}: the order of the {len(methods)} methods does not hold (Kendall's tau {shown}): ranks changed: "
        f"{moves}; {len(report['reversed'])} of {pairs} pairs are reversed"
    )
    if contradictions:
        listed = ", ".join(f"{each['first']} and {each['second']}" for each in contradictions)
        return f"{text}, and both judges are sure of theirs (95 %) in {len(contradictions)}: {listed}."
    return f"{text}, none of them where both judges are sure (95 %)." if report["reversed"] else f"{text}."


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a document: a table for each benchmark, the judges' columns side by side."""
    parts = [f"# {escape(Path(report['run']).name)}, judged twice"]
    for each in report["benchmarks"]:
        parts.append(f"## {escape(each['benchmark'])}: {escape(each['metric'])}")
        judges = [escape(judge or "no judge") for judge in each["judges"]]
        lines = ["| method | " + " | ".join(f"{judge} | rank" for judge in judges) + " |"]
        lines.append("|---|" + "---:|---:|" * len(judges))
        for row in each["methods"]:
            cells = " | ".join(f"{_number(cell)} | {cell['rank']}" for cell in row["by"])
            lines.append(f"| {escape(row['method'])} | {cells} |")
        parts += ["\n".join(lines), escape(each["verdict"])]
    if report["left_out"]:
        parts.append(escape(f"Left out, as they need no judge: {', '.join(report['left_out'])}."))
    return "\n\n".join(parts) + "\n"


def _number(cell: dict[str, Any]) -> str:
    low, high = cell["interval"]
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    absent = cell["missing"] + cell["unparsed"]
    return f"{cell['value']:.2f}{interval}" + (f" ({absent} without a verdict)" if absent else "")
