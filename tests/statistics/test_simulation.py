"""Tables of made-up scores: the short form of `harness simulate`, and that its long form is what the docs say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import harness
from paths import DOCS
from scipy.stats import binom
from table_rows import ledger

from harness.benchmarks.base import Score
from harness.statistics.judged import judge
from harness.statistics.simulation import promises, report
from harness.statistics.simulation.promises import COVERAGE, MOST_FALSE, ErrorRates, broken, measure
from harness.statistics.simulation.scores import KINDS, Scenario, tables
from harness.tables.build import build
from harness.tables.schema import ResultRow

TABLES = 80


@pytest.mark.parametrize(
    "setting",
    [
        *(Scenario(kind, 3) for kind in KINDS),
        *(Scenario("normal", seeds) for seeds in (1, 2, 12)),
        Scenario("normal", 3, 2, 1),
        Scenario("normal", 3, seed_sd=0.5),
    ],
    ids=lambda each: f"{each.kind}, {each.seeds} seeds, {each.methods} methods, {each.seed_sd}",
)
def test_tables_are_rarely_wrong(setting):
    """More false stars or ranks than 6 % of the tables would have by chance in one of 1,000; coverage likewise, as if
    all intervals of a benchmark were one."""
    found = measure(setting, TABLES, seed=1)
    most = binom.ppf(0.999, TABLES, MOST_FALSE) / TABLES
    assert (found.false_stars is None) == (found.false_ranks is None) == (setting.seeds < 3)
    assert (found.false_stars or 0) <= most and (found.false_ranks or 0) <= most
    least = binom.ppf(0.001, TABLES * setting.benchmarks, COVERAGE[0]) / (TABLES * setting.benchmarks)
    assert min(found.scores, found.differences) >= least
    assert broken(found) == []


def test_a_broken_promise_is_told():
    good = ErrorRates(Scenario("normal", 3), 2000, 0.05, 0.05, 0.05, 0.95, 0.95, 0.5, 1.0)
    assert broken(good) == []
    assert broken(replace(good, false_stars=0.08)) == ["false stars in 8.0 % of the tables"]
    assert broken(replace(good, false_ranks=0.21)) == ["false ranks in 21.0 % of the tables"]
    assert broken(replace(good, scores=0.9, differences=0.99)) == [
        "intervals of scores hold the truth in 90.0 %",
        "intervals of differences hold the truth in 99.0 %",
    ]
    assert broken(replace(good, setting=Scenario("ceiling", 3), scores=0.99)) == []


@pytest.mark.parametrize("kind", ["normal", "ceiling", "missing", "clustered"])
def test_made_up_tables_are_judged_as_those_of_runs(kind):
    """The same numbers by way of scores, ledgers and rows, as a run folder has them."""
    setting = Scenario(kind, 3, methods=3, benchmarks=2, questions=24)
    (grids,) = tables(setting, 1, np.random.default_rng(0), shift=3.0)
    metric = "accuracy %" if setting.limits else "points"
    rows = []
    for method in grids["b0"]:
        scores = {name: _scores(name, metric, own[method]) for name, own in grids.items()}
        ledgers = dict.fromkeys(range(3), ledger(1e12, 161_700))
        seconds = dict.fromkeys(range(3), {"training": 1.0, "scoring": 1.0})
        rows.append(ResultRow(method, "none", scores, ledgers, seconds))
    judged = judge(grids, "m0", set(grids["b0"]), dict.fromkeys(grids, setting.limits))
    for row in build(rows, "m0").rows:
        for name, cell in row.cells.items():
            own = judged.intervals[name][row.method]
            assert (cell.value, cell.low, cell.high) == pytest.approx((own.value, own.low, own.high))
            assert (cell.p_holm is None) == (row.method == "m0")
            assert cell.p_holm == (cell.p_holm and pytest.approx(judged.p_holm[name, row.method]))
            assert cell.rank == judged.ranking.standings[name][row.method].rank


def _scores(benchmark, metric, grid):
    found = {}
    for seed, values in zip(grid.seeds, grid.values, strict=True):
        known = {name: float(value) for name, value in zip(grid.questions, values, strict=True) if not np.isnan(value)}
        clusters = dict(zip(grid.questions, grid.clusters, strict=False))
        found[seed] = Score(benchmark, metric, sum(known.values()) / len(known), known, clusters=clusters)
    return found


def test_a_better_method_is_found():
    found = measure(Scenario("normal", 5, methods=2, benchmarks=1), 40)
    assert found.power > 0.9


def test_the_docs_have_the_long_form():
    """docs/simulation.json is what `harness simulate` has written, and the table of docs/statistics.md is its."""
    kept = json.loads((DOCS / "simulation.json").read_text())
    found = [ErrorRates.from_dict(each) for each in kept["measured"]]
    assert kept["tables"] == 2000 and kept["broken"] == []
    assert [each.setting for each in found] == [promises.claimed(each) for each in promises.settings()]
    assert not any(broken(each) for each in found)
    text = (DOCS / "statistics.md").read_text()
    assert text == report.between_markers(text, report.to_markdown(found))


def test_the_command(tmp_path, monkeypatch):
    few = [Scenario("normal", 3, 2, 1), Scenario("binary", 1, 2, 1)]
    monkeypatch.setattr(promises, "settings", lambda: few)
    (tmp_path / "docs.md").write_text(f"# A\n\n{report.BEGIN}\nold\n{report.END}\n\nB\n")
    arguments = ("--tables", 20, "-o", "out.json", "--docs", "docs.md")
    shown = harness("simulate", *arguments, cwd=tmp_path)
    kept = json.loads((tmp_path / "out.json").read_text())
    assert [ErrorRates.from_dict(each).setting.kind for each in kept["measured"]] == ["normal", "binary"]
    text = (tmp_path / "docs.md").read_text()
    assert text.startswith("# A") and text.endswith("\n\nB\n") and "old" not in text
    assert shown.strip() in text and "| binary | 1 | 2 | 1 | – | – | – |" in text
    assert json.loads(harness("simulate", "--tables", 20, "--json", cwd=tmp_path)) == kept
    (tmp_path / "none.md").write_text("")
    assert "has no line" in harness("simulate", "--docs", "none.md", cwd=tmp_path, code=2)
