"""The code that a step rests on: what of it is in its digest, what is not, and what a run does when it has changed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from command_line import harness
from paths import ROOT

from harness.errors import UserError
from harness.experiment import registry
from harness.files import sources
from harness.files.sources import ANSWERING, ANSWERS, JUDGING, SCORING, TRAINING, Part, Roots

RUN = ("run", "--method", "pbaa", "--budget", "updates=1", "--limit", "2", "--benchmark", "mt-bench", "--name", "r")
PACKAGES = "results/runs/r"


def forget():
    for each in vars(sources).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Changes a file of a copy of our packages, which digests are then computed from."""
    for name in sources.OURS:
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    kept = sources._top

    def top(name):
        if name not in sources.OURS:
            return kept(name)
        folder = tmp_path / "source" / name
        return folder / "__init__.py", (folder,)

    def edit(file, old, new):
        path = tmp_path / "source" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        forget()

    monkeypatch.setattr(sources, "_top", top)
    forget()
    yield edit
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("method", ["sso.method", "sso.version1", "baselines.pbaa", "baselines.sft", "baselines.dpo"])
def test_what_training_rests_on(method):
    names = set(sources.modules(TRAINING, method))
    needed = {"budget", "methods.prompts", "methods.base", "experiment.options", "experiment.search", "training.losses"}
    needed |= {"stages.plan", "stages.fitting", "stages.collect", "stages.train", "runs.arm", "runs.inputs"}
    needed |= {"training.trainer", "training.processes.worker", "training.reference", "runs.processes"}
    needed |= {"engines.packing", "engines.generation", "engines.chat", "engines.sampling"}
    assert {f"harness.{name}" for name in needed} <= names and method in names
    packages = ("report", "exports", "tables", "results", "commands", "regression", "perf", "benchmarks")
    assert not {name for name in names if name.startswith(tuple(f"harness.{each}." for each in packages))}
    modules = ("runs.run", "runs.verify", "runs.show", "runs.scoring", "cli")
    assert not {f"harness.{name}" for name in modules} & names
    if method in ("baselines.pbaa", "baselines.sft"):
        assert {"sso.responses", "sso.principles", "harness.testbed.principles"} <= names
        assert "sso.trainer" not in names and "sso.method" not in names
    assert ("sso.responses" in names) == (method != "baselines.dpo")


def test_answers_do_not_rest_on_judging_nor_scores_on_answering():
    mt_bench = registry.load("benchmark", "mt-bench")
    answers = set(sources.modules(ANSWERING, Part.of(mt_bench, JUDGING)))
    scores = set(sources.modules(SCORING, Part.of(mt_bench, ANSWERS), "harness.testbed.judge"))
    judging = {"harness.judges.verdicts", "harness.benchmarks.mt_bench_judgments"}
    assert judging <= scores and not judging & answers
    assert "harness.engines.generation" in answers and "harness.engines.generation" not in scores
    assert "harness.testbed.judge" in scores and "harness.testbed.judge" not in answers
    graded_in_answering = sources.modules(ANSWERING, Part.of(registry.load("benchmark", "math"), JUDGING))
    assert "harness.benchmarks.math_answers" in graded_in_answering
    assert not {name for name in answers | scores if name.startswith(("harness.report", "harness.tables"))}


def test_data_that_code_reads_counts(edited):
    alpaca = (SCORING, Part.of(registry.load("benchmark", "alpaca-eval"), ANSWERS))
    before = sources.digest(*alpaca), sources.digest(TRAINING, "sso.method"), sources.digest(TRAINING, "baselines.dpo")
    edited("harness/benchmarks/alpaca_instructions.txt", "a", "b")
    edited("harness/testbed/model/testbed.json", '"system"', '"sys"')  # lengths that the plan is made from
    now = sources.digest(*alpaca), sources.digest(TRAINING, "sso.method"), sources.digest(TRAINING, "baselines.dpo")
    assert all(one != other for one, other in zip(before, now, strict=True))


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package of someone else: imports of every kind, from a package that is not installed beside it too."""
    package, other = tmp_path / "plugged", tmp_path / "lent"
    (package / "deep").mkdir(parents=True)
    other.mkdir()
    files = {
        package / "__init__.py": "LAZY = {'x': 'plugged.lazy'}\nfrom plugged import eager\n",
        package / "method.py": (
            "import importlib\nfrom typing import TYPE_CHECKING\nfrom . import near\nfrom .deep import inner as other\n"
            "if TYPE_CHECKING:\n    from plugged import typed\n"
            "def work():\n    from plugged.inside import value\n    import lent.helper\n"
            "    importlib.import_module('plugged.dispatched')\n    open('texts.json')\n    import numpy\n"
        ),
        **{package / f"{name}.py": "" for name in ("near", "typed", "lazy", "eager", "inside", "dispatched", "unused")},
        package / "deep" / "__init__.py": "",
        package / "deep" / "inner.py": "from ..near import value\nfrom ...unknown import value as v\n",
        package / "texts.json": "{}",
        package / "unread.json": "{}",
        other / "__init__.py": "",
        other / "helper.py": "",
    }
    for path, text in files.items():
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield package
    forget()
    for name in ("plugged", "lent"):
        sys.modules.pop(name, None)


def test_imports_of_every_kind_are_followed(plugin):
    assert sources.modules(Roots(()), "plugged.method") == (
        *("lent", "lent.helper", "plugged", "plugged.deep", "plugged.deep.inner", "plugged.dispatched"),
        *("plugged.eager", "plugged.inside", "plugged.method", "plugged.near"),
    )
    assert "numpy" in sources.packages(TRAINING, "plugged.method") and "lent" not in sources.packages(
        TRAINING, "plugged.method"
    )


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        *(("near.py", True), ("inside.py", True), ("deep/inner.py", True), ("../lent/helper.py", True)),
        *(("texts.json", True), ("unread.json", False), ("typed.py", False), ("lazy.py", False), ("unused.py", False)),
    ],
)
def test_a_change_counts_where_it_can_be_reached(plugin, file, counts):
    before = sources.digest(TRAINING, "plugged.method")
    with (plugin / file).open("a") as opened:
        opened.write("\n# changed\n")
    forget()
    assert (sources.digest(TRAINING, "plugged.method") != before) == counts


def test_code_without_source_is_refused():
    with pytest.raises(UserError, match="source of module nowhere.at.all is not here"):
        sources.digest(TRAINING, "nowhere.at.all")


@pytest.fixture(scope="module")
def finished(testbed_model_dir, tmp_path_factory):
    place = tmp_path_factory.mktemp("sources")
    harness(*RUN, cwd=place)
    return place


@pytest.mark.parametrize(
    ("file", "old", "new", "first"),
    [
        ("sso/responses.py", "principle.good", "principle.bad", "pbaa-seed0: step policy-examples"),
        ("harness/work.py", "TRAIN_FLOPS = 6", "TRAIN_FLOPS = 12", "base-seed0: step samples-mt-bench"),
    ],
)
def test_other_code_is_not_mixed_with_what_is_finished(finished, edited, file, old, new, first):
    edited(file, old, new)
    for command in (RUN, (*RUN, "--seeds", "2")):
        told = harness(*command, cwd=finished, code=2)
        assert f"{first} was computed with other code" in told
    assert not (finished / PACKAGES / "arms" / "pbaa-seed1").exists()
    report = json.loads(harness("verify", PACKAGES, "--json", cwd=finished))
    assert report["verified"] and any(text.startswith("code was") for text in report["surroundings"])


def test_code_of_other_things_leaves_a_run_finished(finished, edited):
    marks = {path: path.read_bytes() for path in (finished / PACKAGES).glob("arms/*/steps/*")}
    for file in ("harness/report/page.py", "harness/tables/markdown.py", "harness/runs/run.py", "baselines/dpo.py"):
        edited(file, "import ", "import  ")
    harness(*RUN, cwd=finished)
    assert {path: path.read_bytes() for path in (finished / PACKAGES).glob("arms/*/steps/*")} == marks


def test_judging_code_leaves_answers(finished, edited):
    edited("harness/judges/verdicts.py", "def ", "def  ")
    told = harness(*RUN, cwd=finished, code=2)
    assert "base-seed0: step score-mt-bench was computed with other code" in told
    assert "samples-mt-bench" not in told
    assert Path(finished / PACKAGES / "index.json").exists()
