"""Completion of names in the shell, and `harness --version`; both without importing torch."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from paths import ROOT

from harness import __version__
from harness.commands import version as versions
from harness.experiment import registry

COMMAND = "import sys; sys.argv[0] = 'harness'; from harness.cli import main; main()"  # as the installed one is named


def harness(*words, cwd, **variables):
    """What a new process prints, and the modules that it imported."""
    environment = os.environ | variables | {"PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("harness run --method ss", ["sso", "sso-v1"]),
        ("harness run -m base,x=dp", ["base,x=dpo"]),
        ("harness eval m --benchmark math,mm", ["math,mmlu"]),
        ("harness run --config llama3-8b-i", ["llama3-8b-instruct"]),
        ("harness estimate qwen2-7b-s", ["qwen2-7b-sft"]),
        ("harness table mi", ["mine", "mine-too"]),
        ("harness verify ot", ["other"]),
        ("harness list if", ["ifeval"]),
    ],
)
def test_names_are_completed(tmp_path, words, expected):
    for name in ("mine", "mine-too", "other"):
        (tmp_path / "results" / "runs" / name).mkdir(parents=True)
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found, imported = harness(cwd=tmp_path, _HARNESS_COMPLETE="complete_bash", **asked)
    assert found == expected
    assert not {"torch", "transformers", "numpy"} & imported


def test_versions(tmp_path):
    lines, imported = harness("--version", cwd=tmp_path)
    assert lines[0].startswith(f"harness {__version__}") and lines[2:] == [
        f"torch {version('torch')}",
        f"transformers {version('transformers')}",
    ]
    assert not {"torch", "transformers"} & imported
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        assert f"commit {head}" in lines[0]
    assert versions.commit(tmp_path) is None


def test_every_name_can_be_completed():
    from harness.commands import completion

    assert completion.methods("") == list(registry.names("method"))
    assert completion.runs("") == [] or os.path.isdir("results/runs")
