"""The core installation: what an extra brings is named where it is missing, before anything is spent."""

import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.files.extras import check_installed

WITHOUT = (
    "import sys\n"
    "from harness.files.extras import EXTRAS\n"
    "sys.modules |= dict.fromkeys(EXTRAS)\n"  # an import of these fails as if they were not installed
    "from harness.cli import main\n"
    "main()\n"
)


def core(folder, *arguments):
    """What the command says in an environment that has no extra, and its exit code."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "--benchmark", "math"),
            "benchmark math needs lm_eval, math_verify, which the core installation leaves out: "
            "pip install 'harness[benchmarks]', or 'harness[all]'",
        ),
        (
            ("run", "--benchmark", "mt-bench", "--judge-model", "m", "--judge-url", "http://127.0.0.1:1/v1"),
            "this judge needs openai, tenacity, which the core installation leaves out: pip install 'harness[judges]'",
        ),
    ],
)
def test_a_missing_extra_is_named_before_training(tmp_path, arguments, message):
    code, said = core(tmp_path, *arguments)
    assert code == 2 and message in said
    assert "Traceback" not in said and not list(tmp_path.rglob("preferences"))


def test_the_core_trains_and_scores(testbed_model_dir, tmp_path):
    small = ("--method", "sso,dpo", "--budget", "6e10", "--limit", "8", "--benchmark", "mt-bench,reward-bench")
    code, said = core(tmp_path, "run", *small, "--name", "core")
    assert code == 0, said
    code, said = core(tmp_path, "report", "core")
    assert code == 2 and "vl_convert" in said and "harness[report]" in said


def test_what_no_extra_brings_is_not_asked_for(monkeypatch):
    check_installed("this", ["not_a_package", "json"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"this needs ray, .*harness\[ray\]"):
        check_installed("this", ["ray", "json"])
