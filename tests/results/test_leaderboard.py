"""results/LEADERBOARD.md: every finished experiment among its own kind, and a reason for each that is left out."""

import json
import shutil

import pytest
from forged_run import write
from paths import ROOT

from harness.commands.tables import write_leaderboard
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.typed import build, load
from harness.perf.table import write_run
from harness.results.folder import table_of
from harness.tables import to_json
from harness.tables.json import from_json


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Runs one and two can be compared, cheap has another budget, half is not finished."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "results" / "runs"
    write_run(runs / "one", 20, 2, [1])
    write_run(runs / "two", 20, 2, [1, 2])
    write_run(runs / "cheap", 20, 2, [3])
    for file in (runs / "cheap").glob("arms/*/ledger.json"):
        file.write_text(file.read_text().replace("1000000000000.0", "3000000000000.0"))
    config = runs / "cheap" / "experiment.yaml"
    config.write_text(config.read_text().replace("1e+12", "3e+12"))
    write_run(runs / "half", 20, 2, [4])
    (runs / "half" / "index.json").unlink()
    return tmp_path / "results"


def document(results) -> str:
    return write_leaderboard(results, None).read_text()


def test_groups_rows_and_reasons(results):
    text = document(results)
    first, second = (part for part in text.split("\n## ") if part.startswith("testbed, start model"))
    rows = [part for part in (first, second) if "two/dpo-1" in part][0]
    assert rows.count("\n| base ") == 1 and all(name in rows for name in ("| one/dpo-1 ", "| two/dpo-1 ", "| dpo-2 "))
    assert rows.splitlines()[2].startswith("| method ") and "| seeds |" in rows
    other = second if rows is first else first
    assert "| dpo-3 " in other and "3e+12 FLOPs per run" in other
    assert "## Left out\n\n- runs/half: not finished" in text
    assert "Made by `harness leaderboard --results" in text
    assert (
        "harness bench, finished 20" in rows and "made by `harness run --name one --method dpo-1=dpo --seeds 2" in rows
    )
    body = [line for line in rows.splitlines() if line.startswith("| ")][2:]
    assert body[-1].startswith("| base "), "what is not ranked stands last"


def test_the_same_results_give_the_same_file(results):
    text = document(results)
    before = (results / "LEADERBOARD.md").stat().st_mtime_ns
    assert document(results) == text
    assert (results / "LEADERBOARD.md").stat().st_mtime_ns == before


def test_a_copy_counts_once_and_a_kept_one_first(results):
    shutil.copytree(results / "runs" / "one", results / "runs" / "again")
    shutil.copytree(results / "runs" / "two", results / "kept")
    text = document(results)
    assert "- runs/one: has the same scores as runs/again" in text
    assert "- runs/two: has the same scores as kept" in text
    assert "finished" not in [line for line in text.splitlines() if line.startswith("- kept:")][0]


def test_kept_tables_are_shown_as_they_were(results):
    write(results / "old" / "table.json", json.loads((ROOT / "results" / "testbed-untuned" / "table.json").read_text()))
    shutil.copy(ROOT / "results" / "testbed-untuned" / "experiment.yaml", results / "old")
    write(results / "same" / "table.json", to_json(table_of(results / "runs" / "one")))
    text = document(results)
    kept = text.split("## Kept table: old")[1].split("\n## ")[0]
    assert "7.39 [7.12, 7.65] *" in kept and "made by `harness run --name testbed --method sso,sso-v1,pbaa" in kept
    assert "- same: the table of runs/one" in text


def test_damaged_experiments_are_left_out_with_the_reason(results):
    runs = results / "runs"
    score = runs / "one" / "arms" / "base-seed0" / "scores" / "math.json"
    score.write_text("{")
    (runs / "two" / "arms" / "dpo-2-seed1" / "ledger.json").unlink()
    write(runs / "cheap" / "versions.json", {"format": 99})
    (runs / "odd").mkdir()
    write(results / "bad" / "table.json", {"rows": 3})
    text = document(results).split("## Left out")[1]
    assert "math.json:1: not JSON" in text and "ledger.json is missing" in text and "has format 99" in text
    assert "- runs/odd: not finished" in text and "is not a table of harness" in text


def test_nothing_finished(tmp_path):
    assert "There is no finished experiment yet." in document(tmp_path)
    with pytest.raises(UserError, match="no results at"):
        write_leaderboard(tmp_path / "nowhere", None)
    with pytest.raises(UserError, match="is a folder: name the file to write"):
        write_leaderboard(tmp_path, tmp_path)


def test_a_table_comes_back_from_its_json(results):
    data = to_json(table_of(results / "runs" / "two"))
    assert to_json(from_json(json.loads(json.dumps(data)), "file")) == data


def test_every_kept_file_says_what_made_it():
    folders = [file.parent for file in (ROOT / "results").glob("*/experiment.yaml")]
    assert len(folders) >= 10
    for folder in folders:
        command = build(Experiment, load(folder / "experiment.yaml"), "option").command
        written = [file for file in folder.iterdir() if file.name != "weak-principles.json"]  # by hand
        for file in written:
            made_by = "harness figure pairs" if file.suffix == ".svg" else json.dumps(command)[1:-1]
            assert made_by in file.read_text() or command in file.read_text(), file
    assert "harness figure budgets" in (ROOT / "results/budgets.svg").read_text()
