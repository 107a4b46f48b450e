"""Methods and benchmarks named FILE.py:CLASS: through the command line, in files, from Python, and what is refused."""

import json
import shutil
from contextlib import chdir

import pytest
from command_line import harness
from paths import ROOT

from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files import code_files, sources

PLUGIN = ROOT / "tests" / "plugin" / "brevity"


@pytest.fixture
def place(tmp_path):
    """A folder with a method and a benchmark in files; the benchmark imports a module beside it."""
    shutil.copy(PLUGIN / "method.py", tmp_path / "shorter.py")
    text = (PLUGIN / "benchmark.py").read_text().replace("tokens: int = 20", "tokens: int = LIMIT")
    (tmp_path / "brevity.py").write_text(
        text.replace("from pathlib", "from limit_of_brevity import LIMIT\nfrom pathlib")
    )
    (tmp_path / "limit_of_brevity.py").write_text("LIMIT = 20\n")
    return tmp_path


def test_a_run_with_files(testbed_model_dir, place):
    """Two processes run it from a configuration; it is resumed, verified, shown and reported; a change is refused."""
    (place / "run.yaml").write_text(
        "methods: [own=shorter.py:Shorter]\n"
        "benchmarks: ['brevity.py:Brevity', 'brief=brevity.py:Brevity']\n"
        "limit: 4\nbudget: updates=1\nname: files\noptions: {own: {batch_size: 8}, brief: {tokens: 12}}\n"
    )
    command = ("run", "--config", "run.yaml")
    table = json.loads(harness(*command, "--jobs", 2, "--json", cwd=place))
    assert [row["method"] for row in table["rows"]] == ["base", "own"]
    assert [each["title"] for each in table["benchmarks"]] == ["testbed Brevity", "testbed Brevity (brief)"]
    run = place / "results" / "runs" / "files"
    digest = code_files.CodeFile(place / "shorter.py", (place / "shorter.py").read_bytes()).sha256
    made = json.loads((run / "versions.json").read_text())["code files"]
    assert made["own"] == {"class": "shorter.py:Shorter", "sha256": digest} and set(made) == {
        *("own", "brevity", "brief")
    }
    assert any(
        f"own is the class shorter.py:Shorter (SHA-256 of the file: {digest})" in note for note in table["notes"]
    )
    harness("verify", "files", cwd=place)
    assert "brief" in harness("show", "files", "brief", cwd=place)
    harness("report", "files", cwd=place)
    assert digest in (run / "report.html").read_text()
    assert json.loads(harness(*command, "--json", cwd=place)) == table

    (place / "limit_of_brevity.py").write_text("LIMIT = 20  # changed\n")
    sources.digest.cache_clear()  # of this process, which has not run anew
    assert "other code" in harness(*command, cwd=place, code=2)
    (place / "limit_of_brevity.py").write_text("LIMIT = 20\n")
    sources.digest.cache_clear()
    with (place / "shorter.py").open("a") as file:
        file.write("# changed\n")
    assert "step policy-examples was computed with other code" in harness(*command, cwd=place, code=2)
    checked = json.loads(harness("verify", "files", "--json", cwd=place))  # its numbers are still those of its samples
    assert checked["verified"] and any(text.startswith("code was") for text in checked["surroundings"])
    (place / "shorter.py").unlink()
    said = harness("table", "files", cwd=place, code=2)
    assert "shorter.py cannot be read (No such file or directory): paths are relative to" in said


def test_names_of_classes_in_files(place):
    with chdir(place):
        asked = Experiment(methods=("shorter.py:Shorter",), benchmarks=("brevity.py:Brevity", "math"))
        assert asked.arms() == ("base", "shorter") and asked.benchmark_names() == ("brevity", "math")
        assert asked.command.endswith("--method shorter.py:Shorter --benchmark brevity.py:Brevity,math")
        assert type(asked.method("shorter")).__module__.startswith("shorter_")
        described = json.loads(harness("list", "shorter.py:Shorter", "--json", cwd=place))
        assert (described["name"], described["kind"], described["module"]) == ("shorter", "method", "shorter.py")
        assert [each["name"] for each in described["options"]][-2:] == ["candidates", "beta"]


@pytest.mark.parametrize(
    ("kind", "target", "text", "said"),
    [
        ("method", "absent.py:A", None, "absent.py cannot be read (No such file or directory)"),
        ("method", "a.py", "class A: pass\n", "name a class of a.py: a.py:A"),
        ("method", "a.py:B", "class A: pass\n", "a.py has no class 'B': a.py:A"),
        ("method", "a.py:A", "x = 1\nclass A:\n  x = y\n", "a.py:3: NameError: name 'y' is not defined"),
        ("method", "a.py:A", "x = 1\nclass A\n", "a.py:2: SyntaxError: expected ':'"),
        ("method", "a.py:A", "import sys\nsys.exit(3)\n", "a.py:2: SystemExit: 3"),
        (
            "method",
            "a.py:A",
            "class A:\n  name = 'a'\n",
            "a.py:A is no method: it lacks summary, Options, stages, supervision",
        ),
        ("benchmark", "a.py:A", "class A:\n  name = title = 'a'\n", "it lacks Options, load, answer, score; inherit"),
        (
            "benchmark",
            "a.py:A",
            "from harness.benchmarks.gsm8k import GSM8K as A\n",
            "has the name of the installed benchmark gsm8k",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, kind, target, text, said):
    if text:
        (tmp_path / "a.py").write_text(text)
    assert said in harness("run", f"--{kind}", target, cwd=tmp_path, code=2)


def test_the_bytes_that_ran_are_those_of_the_digest(tmp_path):
    """A file that is edited while a process runs is another module in the next call, never mistaken for the first."""
    with chdir(tmp_path):
        file = tmp_path / "edited.py"
        file.write_text("class A:\n    value = 1\n")
        before = code_files.load_class("edited.py:A")
        file.write_text("class A:\n    value = 2\n")
        roots = (sources.Roots(()), before.__module__)
        digest = sources.digest(*roots)
        after = code_files.load_class("edited.py:A")
        assert (before.value, after.value) == (1, 2) and before.__module__ != after.__module__
        assert digest != sources.digest(sources.Roots(()), after.__module__)
        file.write_text("class A:\n    value = 1\n")
        assert code_files.load_class("edited.py:A") is before and sources.digest(*roots) == digest


def test_results_do_not_bring_code_along(tmp_path):
    """A run folder of someone else may name a file in itself; reading it must not run that file."""
    run = tmp_path / "foreign"
    run.mkdir()
    (run / "evil.py").write_text("raise SystemError\n")
    (run / "experiment.yaml").write_text("methods: ['x=foreign/evil.py:A']\n")
    (run / "versions.json").write_text('{"format": 3}')
    for command in ("table", "report", "verify"):
        code = 1 if command == "verify" else 2
        said = harness(command, "foreign", cwd=tmp_path, code=code)
        assert code == 1 or "names code in its own folder (foreign/evil.py:A), which is not run" in said


def test_one_name_for_a_method_and_a_benchmark_is_refused(place):
    with chdir(place), pytest.raises(UserError, match="math is both a method and a benchmark"):
        Experiment(methods=("math=shorter.py:Shorter",), benchmarks=("math",))
    assert registry.entry("method", "a=b.py:C") == ("a", "b.py:C")
