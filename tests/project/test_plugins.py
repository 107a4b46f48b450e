"""docs/plugins.md shows the whole package in tests/plugin; installed from there, its method and benchmark run."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from paths import ROOT

PACKAGE = ROOT / "tests" / "plugin"
LONGEST = 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment in which the package is installed, away from everything else."""
    place = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, place / "source")  # building leaves files there
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(place / "site"), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(place / "site"), str(ROOT)))}


def harness(*arguments, cwd, env):
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_the_page_shows_the_package_itself():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.*") if file.suffix != ".pyc"}
    assert shown == {name: text for name, text in files.items() if not name.endswith("__init__.py")}
    assert all(len(text.splitlines()) < LONGEST for text in shown.values())


def test_its_names_are_known(installed, tmp_path):
    code, out, _ = harness("list", "--json", cwd=tmp_path, env=installed)
    names = json.loads(out)
    assert code == 0
    assert names["methods"]["shorter"].startswith("DPO on the policy's own replies")
    assert names["benchmarks"]["brevity"] == "Brevity"


def test_its_method_and_benchmark_run(testbed_model_dir, installed, tmp_path):
    command = ("run", "--method", "shorter", "--benchmark", "brevity,math", "--limit", 8, "--budget", "6e10")
    settings = ("--set", "shorter.learning_rate=1e-3", "--set", "brevity.tokens=18", "--name", "brief", "--json")
    code, out, told = harness(*command, *settings, cwd=tmp_path, env=installed)
    assert code == 0, told
    base, shorter = json.loads(out)["rows"]
    assert (base["method"], shorter["method"], shorter["supervision"]) == ("base", "shorter", "length of the replies")
    assert shorter["ranked"] and shorter["spent"]["updates"] > 0
    assert shorter["cells"]["brevity"]["value"] > base["cells"]["brevity"]["value"]  # it learns what it is trained for
    folder = tmp_path / "results" / "runs" / "brief" / "arms" / "shorter-seed0"
    pairs = [json.loads(line) for line in (folder / "preferences" / "policy.jsonl").read_text().splitlines()]
    assert pairs and all(
        len(pair["sequences"][0]["completion_ids"]) < len(pair["sequences"][1]["completion_ids"]) for pair in pairs
    )
    code, _, told = harness("table", "results/runs/brief", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert code == 2 and "unknown method 'shorter'" in told  # one line for who has not got the package
