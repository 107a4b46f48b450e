"""A finished run's stored answers, judged by a second judge and compared with the run's own judgments.

The run does not change, and no answer is generated again. The second judge's log, judgments and scores, and a table
whose columns name both judges, are kept in rejudged/JUDGE in the run folder. Their scores are never pooled.
"""

from collections.abc import Mapping, Sequence
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
from harness.runs.judge_choice import judged_by_rewards, only_compares
from harness.runs.run import arms_of
from harness.runs.scoring import NUMBERS, Scoring, scored
from harness.signals import stoppable
from harness.statistics import intervals
from harness.statistics.grids import Grid
from harness.statistics.intervals import Difference, Interval
from harness.tables.build import grid_of
from harness.tables.markdown import escape

MOST_FAILED = 0.02  # largest share of an arm's judgments that may fail before scores are not compared
REPORT = "rejudged.json"


def rejudge(run_folder: Path, given: Experiment) -> dict[str, Any]:
    """Judge the stored answers of a finished run; what was judged before is not asked again.

    Args:
        given: the experiment that holds the options of the second judge; its other options are ignored.

    Returns:
        run, judges (the run's and the second), folder, left_out (benchmarks without a judge), rated (benchmarks whose
        judge rates, left out if the second judge is a reward model), benchmarks (see `compared`), verdict; also written
        to rejudged/JUDGE/rejudged.json.

    Raises:
        UserError: for no judge, a run that is not finished or has no judged benchmark, answers or questions that have
            changed since the run, and a judge that cannot be reached.
        Stopped: for SIGINT and SIGTERM.
    """
    check_given(given)
    run = StoredRun.read(run_folder)
    inputs = Inputs(run.experiment, (), (), data_folder(run.experiment, run_folder), None)
    judged, left_out = _judged(run.experiment, inputs, run_folder)
    if not judged:
        raise UserError(f"{run_folder}: no benchmark of this run has a judge ({', '.join(left_out)} need none)")
    rated: dict[str, None] = {}
    if judged_by_rewards(given):
        rated = dict.fromkeys(scoring.name for scoring in judged if not scoring.benchmark.compares)
        judged = [scoring for scoring in judged if scoring.benchmark.compares]
    if not judged:
        raise UserError(
            f"{run_folder}: {', '.join(rated)} need ratings, and {only_compares(given)}: give a judge that writes text"
        )
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
            "endpoint": judge.endpoint,
            "left_out": left_out,
            "rated": list(rated),
            "benchmarks": benchmarks,
            "verdict": " ".join(each["verdict"] for each in benchmarks),
        }
        report = store.plain(report)
        store.write_json(root / REPORT, report)
        store.write_text(root.table_markdown, to_markdown(report))
    return report


def _judged(experiment: Experiment, inputs: Inputs, run_folder: Path) -> tuple[list[Scoring], list[str]]:
    """Return what has judgments, and the names of the benchmarks that need no judge."""
    scorings = [scoring for arm in arms_of(experiment, RunFolder(run_folder)) for scoring in arm.scorings(inputs)]
    left_out = dict.fromkeys(scoring.name for scoring in scorings if not scoring.benchmark.needs_judge)
    return [scoring for scoring in scorings if scoring.benchmark.needs_judge], list(left_out)


def reasons(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each reason why benchmarks of the run are left out."""
    why = {"left_out": "as they need no judge", "rated": "as a reward model cannot rate a single reply"}
    return [f"Left out, {reason}: {', '.join(report[field])}." for field, reason in why.items() if report.get(field)]


def _check_answers(scoring: Scoring) -> None:
    """Check that answers and questions are those that the run has judged.

    Raises:
        UserError: when they are not.
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
            f"{folder.path}: the questions of {scoring.name} are not those that were answered: restore the files of "
            f"{scoring.inputs.data_dir}"
        )


def _score(scoring: Scoring, judge: Judge, root: RunFolder) -> Score:
    """Return the score by the second judge; it is read if it was judged before."""
    arm = scoring.arm
    answered = scoring.folder.mark(scoring.samples_step)
    assert answered is not None, "_check_answers comes first"
    folder = root.arm(arm.name, arm.seed)
    score_file = folder.score(scoring.name)
    judgments_file = folder.judgments(scoring.name)
    roots = (sources.SCORING, sources.Part.of(scoring.benchmark, sources.ANSWERS), type(judge).__module__)
    depends_on = {
        "samples": list(answered.files.values()),
        "judge": judge.name,
        "endpoint": judge.endpoint,
        "judging": asdict(scoring.judging),
        "packages": fingerprints.of_packages(*NUMBERS, *scoring.benchmark.packages, *sources.packages(*roots)),
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
    """Check how many judgments failed.

    Raises:
        UserError: when more failed than MOST_FAILED allows.
    """
    if score.missing > MOST_FAILED * asked:
        error = next((row["error"] for row in judgments if row.get("error")), "no reply")
        raise UserError(
            f"{label}, {score.benchmark}: {score.missing} of {asked} judgments failed ({error}): run the same "
            "command again to retry these; the others are kept"
        )


@dataclass(frozen=True)
class RejudgedColumn:
    """The scores of all methods on a benchmark by one judge."""

    judge: str | None
    grids: dict[str, Grid]
    intervals: dict[str, Interval | None]
    missing: dict[str, int]
    unparsed: dict[str, int]

    def interval(self, method: str) -> Interval:
        """Return the interval of a method that has one."""
        if (interval := self.intervals[method]) is None:
            raise KeyError(method)
        return interval

    @classmethod
    def of(cls, scores: dict[str, dict[int, Score]]) -> "RejudgedColumn":
        judges = dict.fromkeys(score.judge for by_seed in scores.values() for score in by_seed.values())
        grids = {method: grid_of(by_seed) for method, by_seed in scores.items()}
        by_method = dict(zip(grids, intervals.intervals(list(grids.values())), strict=True))
        missing, unparsed = (
            {method: sum(getattr(score, name) for score in by_seed.values()) for method, by_seed in scores.items()}
            for name in ("missing", "unparsed")
        )
        return cls(" and ".join(sorted(filter(None, judges))) or None, grids, by_method, missing, unparsed)


def compared(name: str, before: dict[str, dict[int, Score]], after: dict[str, dict[int, Score]]) -> dict[str, Any]:
    """Compare two judges on one benchmark.

    Args:
        before, after: method -> seed -> score, by the run's judge and by the second.

    Returns:
        benchmark, metric, judges (2 names), methods: a row for each that both have judged, with method, and by judge
        value, interval, rank, missing and unparsed; judged_once: such rows, without ranks, of methods with verdicts of
        one judge alone (None for the other); without_verdicts (the names of all that are not in methods), tau, p_value
        (Kendall's tau-b between the two orders, exact without ties), changed (methods whose rank differs), reversed
        (pairs that the judges order differently: better by the first, better by the second, distinguished: each
        judge's 95 % interval of the difference excludes 0), holds, verdict.
    """
    first, second = RejudgedColumn.of(before), RejudgedColumn.of(after)
    methods = [method for method in before if first.intervals[method] and second.intervals[method]]
    without = [method for method in before if method not in methods]
    values = [[column.interval(method).value for method in methods] for column in (first, second)]
    places = [ranks(by_judge) for by_judge in values]
    tau, p_value = kendall(*values)
    rows = [
        {"method": method, "by": [_cell(column, method, places[i][place]) for i, column in enumerate((first, second))]}
        for place, method in enumerate(methods)
    ]
    once = [
        {
            "method": method,
            "by": [_cell(column, method) if column.intervals[method] else None for column in (first, second)],
        }
        for method in without
        if first.intervals[method] or second.intervals[method]
    ]
    exchanged = _reversed(methods, values, first, second)
    changed = [method for place, method in enumerate(methods) if places[0][place] != places[1][place]]
    report = {
        "benchmark": name,
        "metric": next(score.metric for by_seed in before.values() for score in by_seed.values()),
        "judges": [first.judge, second.judge],
        "methods": rows,
        "judged_once": once,
        "without_verdicts": without,
        "tau": tau,
        "p_value": p_value,
        "changed": changed,
        "reversed": exchanged,
        "holds": None if len(methods) < 2 else not changed,
    }
    return report | {"verdict": _verdict(report)}


def ranks(values: Sequence[float]) -> list[int]:
    """Return ranks, 1 for the highest value; equal values share the better rank."""
    return [1 + sum(other > value for other in values) for value in values]


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, float | None]:
    """Return Kendall's tau-b and its two-sided p-value; (None, None) for fewer than two values, or all equal."""
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None, None
    from scipy.stats import kendalltau

    result = kendalltau(first, second)
    return float(result.statistic), float(result.pvalue)


def _cell(judged: RejudgedColumn, method: str, rank: int | None = None) -> dict[str, Any]:
    interval = judged.interval(method)
    return {
        "value": interval.value,
        "interval": [interval.low, interval.high],
        "rank": rank,
        "missing": judged.missing[method],
        "unparsed": judged.unparsed[method],
    }


def _reversed(
    methods: Sequence[str], values: list[list[float]], first: RejudgedColumn, second: RejudgedColumn
) -> list[dict[str, Any]]:
    """Return the pairs of methods that the judges order differently."""
    rows = []
    for i, j in combinations(range(len(methods)), 2):
        if (values[0][i] - values[0][j]) * (values[1][i] - values[1][j]) < 0:
            ahead, behind = (methods[i], methods[j]) if values[0][i] > values[0][j] else (methods[j], methods[i])
            sides = [(column.grids[ahead], column.grids[behind]) for column in (first, second)]
            clear = [_excludes_0(difference) for difference in intervals.differences(sides)]
            rows.append({"first": ahead, "second": behind, "distinguished": clear})
    return rows


def _excludes_0(difference: Difference | None) -> bool:
    return difference is not None and (difference.low > 0 or difference.high < 0)


def _verdict(report: dict[str, Any]) -> str:
    name, methods, tau = report["benchmark"], report["methods"], report["tau"]
    if report["without_verdicts"]:
        name += f" (without {', '.join(report['without_verdicts'])}: no verdicts of both judges)"
    if len(methods) < 2:
        return f"{name}: fewer than two methods have verdicts of both judges: there is no order to compare."
    shown = "has no value" if tau is None else f"is {tau:.2f}"
    if report["holds"]:
        return f"{name}: the order of the {len(methods)} methods holds (Kendall's tau {shown})."
    ranks_by = {row["method"]: [cell["rank"] for cell in row["by"]] for row in methods}
    moves = ", ".join(f"{method} {ranks_by[method][0]} to {ranks_by[method][1]}" for method in report["changed"])
    pairs = len(methods) * (len(methods) - 1) // 2
    contradictions = [pair for pair in report["reversed"] if all(pair["distinguished"])]
    text = (
        f"{name}: the order of the {len(methods)} methods does not hold (Kendall's tau {shown}): ranks changed: "
        f"{moves}; {len(report['reversed'])} of {pairs} pairs are reversed"
    )
    if contradictions:
        listed = ", ".join(f"{pair['first']} and {pair['second']}" for pair in contradictions)
        return f"{text}, and both judges are sure of theirs (95 %) in {len(contradictions)}: {listed}."
    return f"{text}, none of them where both judges are sure (95 %)." if report["reversed"] else f"{text}."


def to_markdown(report: dict[str, Any]) -> str:
    """Write the report as a document: a table per benchmark, with the judges' columns side by side."""
    parts = [f"# {escape(Path(report['run']).name)}, judged twice"]
    for each in report["benchmarks"]:
        parts.append(f"## {escape(each['benchmark'])}: {escape(each['metric'])}")
        judges = [escape(judge or "no judge") for judge in each["judges"]]
        lines = ["| method | " + " | ".join(f"{judge} | rank" for judge in judges) + " |"]
        lines.append("|---|" + "---:|---:|" * len(judges))
        for row in [*each["methods"], *each["judged_once"]]:
            cells = " | ".join(f"{_number(cell)} | {cell['rank'] or '–'}" if cell else "– | –" for cell in row["by"])
            lines.append(f"| {escape(row['method'])} | {cells} |")
        parts += ["\n".join(lines), escape(each["verdict"])]
    parts += map(escape, reasons(report))
    return "\n\n".join(parts) + "\n"


def _number(cell: dict[str, Any]) -> str:
    low, high = cell["interval"]
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    absent = cell["missing"] + cell["unparsed"]
    return f"{cell['value']:.2f}{interval}" + (f" ({absent} without a verdict)" if absent else "")
