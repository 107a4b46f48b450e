"""The pages name files and modules that exist, and render on a phone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = re.compile(r"\b(?:harness|sso|baselines)/[\w/]+\.(?:py|yaml)\b")
MODULE = re.compile(r"`((?:harness|sso|baselines)(?:\.\w+)+)")


def is_there(name: str) -> bool:
    """Whether a dotted name is a package or a module, or something that one of them names."""
    place = ROOT / name.replace(".", "/")
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    above, _, last = name.rpartition(".")
    place = ROOT / above.replace(".", "/")
    sources = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    if not sources:
        return "." in above and is_there(above)  # of a class
    return any(re.search(rf"\b{last}\b", file.read_text(encoding="utf-8")) for file in sources)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    assert not [name for name in SOURCE.findall(text) if "NAME" not in name and not (ROOT / name).is_file()]
    assert not [name for name in MODULE.findall(text) if not is_there(name)]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_lines_are_short_enough_for_a_phone(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_the_python_of_the_guide_runs(testbed_model_dir, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["base", "sso", "dpo"]


def test_the_python_of_the_page_on_python_runs(testbed_model_dir, tmp_path):
    """Its three examples, one after the other, with the method and the benchmark of the page on plugins."""
    for name, file in (("method", "shorter"), ("benchmark", "brevity")):
        shutil.copy(ROOT / "tests" / "plugin" / "brevity" / f"{name}.py", tmp_path / f"{file}.py")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    code = "\nprint('---')\n".join(examples)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split("---\n")
    assert [line.split()[-2] for line in first.splitlines()[1:-1]] == ["base", "dpo"]
    assert "dpo" in second and "results/runs/from-python/report.html" in second
    assert third == "['base', 'short']\n"


def test_the_reference_of_the_command_line_is_that_of_the_code():
    made = subprocess.run(
        [sys.executable, "-c", "import cli_reference, sys; sys.stdout.write(cli_reference.text())"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == made, "python docs/cli_reference.py"
