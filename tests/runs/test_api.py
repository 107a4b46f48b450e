"""Runs from Python: the same folder as the command's, and frames that hold what its files hold."""

import json
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace

import pytest
from command_line import harness

from harness import Experiment, UserError, load_run, run
from harness.perf.table import write_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A made-up run of base and two methods: four benchmarks, 60 questions, 3 seeds."""
    place = tmp_path_factory.mktemp("api")
    write_run(place / "results" / "runs" / "made", 60, 3, [1, 2])
    return place


def test_frames_hold_the_scores_ledgers_and_differences(stored):
    with chdir(stored):
        found = load_run("made")
        assert load_run("results/runs/made").table == found.table
        scores = found.scores
        assert list(scores.columns) == ["method", "seed", "benchmark", "question", "value"]
        kept = json.loads((found.path / "arms/dpo-2-seed1/scores/math.json").read_text())
        chosen = scores.query("method == 'dpo-2' and seed == 1 and benchmark == 'math'")
        assert dict(zip(chosen.question, chosen.value, strict=True)) == kept["values"]
        assert chosen.value.mean() == pytest.approx(kept["value"])
        assert len(scores) == sum(
            len(json.loads(file.read_text())["values"]) for file in found.path.glob("arms/*/scores/*.json")
        )
        ledger = found.ledger
        trained = ledger.query("role == 'train'")
        assert set(trained.method) == {"dpo-1", "dpo-2"} and set(trained.trained_tokens) == {161_700}
        differences = found.differences("dpo-1")
        shown = {
            (row.method, name): cell for row in found._stored.table("dpo-1").rows for name, cell in row.cells.items()
        }
        assert len(differences) == 2 * 4
        for row in differences.itertuples():
            cell = shown[row.method, row.benchmark]
            assert (row.difference, row.p_holm) == (cell.difference.value, cell.p_holm)
        with pytest.raises(UserError, match="no"):
            found.differences("ipo")


def test_a_question_without_a_verdict_is_nan(stored):
    with chdir(stored):
        arm = load_run("made").path / "arms" / "base-seed0"
        (arm / "samples").mkdir()
        (arm / "samples" / "math.jsonl").write_text("".join(f'{{"id": "{n}"}}\n' for n in range(60)))
        known = json.loads((arm / "scores" / "math.json").read_text())["values"]
        scores = load_run("made").scores.query("method == 'base' and seed == 0 and benchmark == 'math'")
        assert len(scores) == 60 and set(scores[scores.value.isna()].question) == {str(n) for n in range(60)} - set(
            known
        )


def test_a_notebook_shows_the_table_with_names_escaped(stored):
    with chdir(stored):
        found = load_run("made")
        shown = found._repr_html_()
        assert shown.count("<table>") == 2 and "dpo-1" in shown and "<script" not in shown and "<html" not in shown
        assert repr(found) == harness("table", "made", cwd=stored).rstrip("\n") + "\n"
        object.__setattr__(found.table, "notes", ("<img src=x>",))
        assert "&lt;img src=x&gt;" in found._repr_html_()


def test_a_run_from_python_is_that_of_the_command(testbed_model_dir, tmp_path):
    with chdir(tmp_path):
        found = run(methods="dpo", benchmarks="math", limit=8, budget="updates=2", name="same")
        asked = Experiment(methods=("dpo",), benchmarks=("math",), limit=8, budget="updates=2", name="same")
        assert found.experiment == replace(asked, max_new_tokens=found.experiment.max_new_tokens)
        table = json.loads(harness("table", "same", "--json", cwd=tmp_path))
        value = next(row for row in table["rows"] if row["method"] == "dpo")["cells"]["math"]["value"]
        assert found.scores.query("method == 'dpo'").value.mean() == pytest.approx(value)
        before = {file: file.stat().st_mtime_ns for file in found.path.rglob("*.json")}
        assert run(asked).table == found.table
        assert before == {file: file.stat().st_mtime_ns for file in found.path.rglob("*.json")}
        assert found.report() == found.path / "report.html" and "dpo" in found.report().read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"experiment": Experiment(), "limit": 3}, "give an Experiment or options, not both: limit"),
        ({"methds": "sso"}, "unknown option 'methds'"),
        ({"methods": "ss"}, "did you mean 'sso'"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"methods": "sso", "preferences": "x.jsonl"}, "--preferences is not used by the methods"),
    ],
)
def test_mistakes(arguments, said, tmp_path):
    with chdir(tmp_path), pytest.raises(UserError, match=said):
        run(**arguments)


def test_importing_harness_imports_nothing_else():
    code = (
        "import sys, harness; print([n for n in sys.modules if n.startswith(('harness.', 'torch', 'numpy', 'typer'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
