"""results/LEADERBOARD.md: all finished experiments, in groups that can be compared, ranked within each group.

Experiments are below results/runs, or kept as results/NAME: either with their arms (scores, marks and ledgers), which
are compared like any run, or as a table alone, which is shown as it was. The same files give the same document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks.base import step_names
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store, typed
from harness.files.folders import RUNS, RunFolder
from harness.results.folder import Reader, StoredRun
from harness.results.merging import Basis, merge
from harness.tables.json import from_json
from harness.tables.layout import NONE, budget, heading, name, score, tuned
from harness.tables.markdown import bullets, code, entry, escape, lines
from harness.tables.schema import Row, Table

FILE = "LEADERBOARD.md"
MODEL_DIGITS = 8  # shown of the digest of a start model
LEFT_OUT = "Left out"
Content = frozenset[tuple[object, ...]]


@dataclass(frozen=True)
class Found:
    """The experiments below a folder: runs with their arms, tables alone (folder -> table), and (name, reason) of those
    that are left out."""

    runs: tuple[StoredRun, ...]
    tables: dict[Path, Table]
    left_out: tuple[tuple[str, str], ...]


def leaderboard(results: Path, command: str) -> str:
    """The document, as markdown.

    Args:
        command: the command that makes this document; the document names it.

    Raises:
        UserError: when the folder does not exist.
    """
    if not results.is_dir():
        raise UserError(f"no results at {results}: make some with harness run, or give --results")
    found = find(results)
    groups: dict[str, list[tuple[StoredRun, Basis]]] = {}
    left_out = list(found.left_out)
    for run in found.runs:
        try:
            basis = Basis.of(run)
        except UserError as error:
            left_out.append((run.name, str(error)))
            continue
        key = store.digest([basis.key, vars(run.experiment.cap)])
        groups.setdefault(key, []).append((run, basis))
    parts = ["# Leaderboard", f"Made by {code(command)} from all finished experiments; do not edit.", _legend()]
    shown = [_group(*map(list, zip(*group, strict=True))) for group in groups.values()]
    parts += sorted(shown)
    parts += [_kept(path, table) for path, table in found.tables.items()]
    if not (shown or found.tables):
        parts.append("There is no finished experiment yet.")
    if left_out:
        parts += [f"## {LEFT_OUT}", bullets([f"{name}: {reason}" for name, reason in left_out])]
    return "\n\n".join(parts) + "\n"


def _legend() -> str:
    return (
        "Experiments of a group have the same start model, questions, judge and budget. Rows are ordered by mean rank; "
        "the notes of each group explain the marks. Groups cannot be compared with each other."
    )


def find(results: Path) -> Found:
    """Find the experiments below a folder of results; one that is there twice counts where it is kept."""
    runs: dict[str, StoredRun] = {}
    tables: dict[Path, Table] = {}
    left_out: list[tuple[str, str]] = []
    known: dict[Content, str] = {}
    reader = Reader()
    kept = [path for path in _folders(results) if path.name != RUNS]
    for path in [*kept, *_folders(results / RUNS)]:
        shown = path.relative_to(results).as_posix()
        folder = RunFolder(path)
        try:
            if folder.arms.is_dir():
                _check_finished(folder)
                run = StoredRun.read(path, reader)
                if (first := known.setdefault(_content(run), shown)) != shown:
                    left_out.append((shown, f"has the same scores as {first}"))
                elif path.name in runs:
                    left_out.append((shown, f"another experiment is also named {path.name}: rename one of them"))
                else:
                    runs[path.name] = run
            elif path in kept and (file := folder.table_json).exists():
                tables[path] = from_json(store.read_json(file), str(file))
            elif path not in kept:
                left_out.append((shown, "not finished: it has no arms"))
        except UserError as error:
            left_out.append((shown, str(error)))
    for path, table in list(tables.items()):
        if holder := next((run.name for run in runs.values() if _holds(run, table)), None):
            del tables[path]
            left_out.append((path.relative_to(results).as_posix(), f"the table of {RUNS}/{holder}"))
    return Found(tuple(runs.values()), tables, tuple(left_out))


def _content(run: StoredRun) -> Content:
    """A key of the scores of a run, equal for runs with the same scores that one reader read: it makes one object of
    equal files. Equal verdicts of judges at two endpoints are two results."""
    endpoints: Content = frozenset(
        (benchmark, made.get("judge endpoint"))
        for arm in run.arms(seed=0)
        for benchmark in run.experiment.benchmark_names()
        if (made := run.depends_on(arm, step_names(benchmark)[1]))
    )
    scores: Content = frozenset(
        (row.method, benchmark, seed, id(score))
        for row in run.rows
        for benchmark, scores in row.scores.items()
        for seed, score in scores.items()
    )
    return scores | endpoints


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def _check_finished(folder: RunFolder) -> None:
    if not folder.index.exists():
        raise UserError("not finished: the same harness run continues it")


def _holds(run: StoredRun, table: Table) -> bool:
    """Whether the run has all scores of a table."""
    rows = {row.method: row for row in run.rows}
    return all(
        row.method in rows
        and seed in (scores := rows[row.method].scores.get(benchmark, {}))
        and isclose(scores[seed].value, value, rel_tol=1e-9)
        for row in table.rows
        for benchmark, cell in row.cells.items()
        for seed, value in cell.by_seed.items()
    )


def _group(runs: Sequence[StoredRun], bases: Sequence[Basis]) -> str:
    table, basis = merge(runs, bases=bases), bases[0]
    suites = "testbed" if basis.testbed else "real benchmarks"
    digest = basis.model.get("weights", "")[:MODEL_DIGITS]
    model = Path(runs[0].experiment.model).name + (f" ({digest})" if digest else "")
    parts = [f"## {escape(f'{suites}, start model {model}, {runs[0].experiment.cap} per run')}"]
    parts.append(lines(_rows(table, len(runs) > 1)))
    parts.append(bullets(table.notes))
    parts.append("\n".join(_made(run.name, run.experiment, run.path) for run in runs))
    return "\n\n".join(parts)


def _rows(table: Table, several: bool) -> list[list[str]]:
    """Headings and one row per method: ranked ones by mean rank, then by their first score; others last."""
    with_tuning = any(row.tuning for row in table.rows)
    head = ["method", *["run"] * several, *map(heading, table.benchmarks), "budget spent"]
    rows = [[escape(text) for text in [*head, *["options"] * with_tuning, "seeds"]]]
    for row in sorted(table.rows, key=_place):
        cells = [entry(score(row.cells[column.name], column)) for column in table.benchmarks]
        texts = [budget(row.spent) if row.spent.flops else NONE, *[tuned(row)] * with_tuning, str(len(row.seeds))]
        run = [escape(row.run or NONE)] * several
        rows.append([escape(name(row)), *run, *cells, *map(escape, texts)])
    return rows


def _place(row: Row) -> tuple[float, float, float, str]:
    ranks = [cell.rank for cell in row.cells.values() if cell.rank is not None]
    values = [cell.value for cell in row.cells.values() if cell.by_seed]
    return (not row.ranked, fmean(ranks) if ranks else 0.0, -values[0] if values else 0.0, row.method)


def _made(name: str, experiment: Experiment, path: Path) -> str:
    """Seeds, version, date and command of an experiment, as an item of a list."""
    folder = RunFolder(path)
    versions: dict[str, Any] = store.read_json(folder.versions) if folder.versions.exists() else {}
    with_version = f"harness {versions.get('harness', 'of unknown version')}"
    facts = [f"{experiment.seeds} seed{'s' * (experiment.seeds > 1)}", with_version]
    if path.parent.name == RUNS:  # git does not keep the dates of files
        facts.append(f"finished {datetime.fromtimestamp(folder.index.stat().st_mtime, UTC):%Y-%m-%d}")
    return f"- {escape(name)}: {escape(', '.join(facts))}; made by {code(experiment.command)}"


def _kept(path: Path, table: Table) -> str:
    parts = [f"## {escape(f'Kept table: {path.name}')}"]
    parts.append(lines(_rows(table, False)))
    parts.append(bullets(table.notes))
    if (file := RunFolder(path).experiment).exists():
        experiment = typed.build(Experiment, typed.load(file), "option")
        parts.append(_made(path.name, experiment, path))
    return "\n\n".join(parts)
