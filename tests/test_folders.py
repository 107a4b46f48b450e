"""Paths in a run folder: spelled in one module, and as docs/run-folder.md has them."""

import ast
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.files.folders import RunFolder, run_folder

ROOT = Path(__file__).parents[1]
SPELLING = {ROOT / "harness/files/folders.py", ROOT / "harness/files/marks.py"}
NAMES = {
    *("experiment.yaml", "versions.json", "index.json", "table.json", "table.md", "ledger.json", "seconds.json"),
    *("trials.json", "arms", "tuning", "rejudged", "preferences", "asked", "checkpoints", "training", "health"),
    *("answering", "samples", "judgments", "scores", "steps", "reference", "judge"),
}


def literals(file: Path) -> list[str]:
    """Names of files and folders of a run that a module joins to a path by itself."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = node.args if node.func.attr in ("folder", "glob", "rglob", "joinpath", "with_name") else []
        for part in parts:
            if isinstance(part, ast.Constant) and set(str(part.value).split("/")) & NAMES:
                found.append(f"{file.relative_to(ROOT)}:{part.lineno}: {part.value}")
    return found


def test_no_module_spells_the_paths_of_a_run():
    files = [file for top in ("harness", "sso", "baselines") for file in (ROOT / top).rglob("*.py")]
    assert not [each for file in files if file not in SPELLING for each in literals(file)]
    assert all(map(literals, SPELLING)), "what is looked for is there"


def test_the_folders_are_those_of_the_page():
    page = (ROOT / "docs/run-folder.md").read_text(encoding="utf-8")
    run = RunFolder(Path("RUN"))
    arm = run.arm("METHOD", 0)
    files = [run.experiment, run.versions, run.index, run.table_json, run.table_markdown, run.trials, arm.ledger]
    files += [arm.seconds, arm.preferences("STAGE"), arm.asked("STAGE"), arm.history("STAGE"), arm.health("STAGE")]
    files += [arm.samples("BENCHMARK"), arm.judgments("BENCHMARK"), arm.score("BENCHMARK"), arm.mark_file("STEP")]
    for file in files:
        name = file.relative_to(arm.path if file.is_relative_to(arm.path) else run.path).as_posix()
        assert name.removeprefix("tuning/") in page, name
    assert arm.path == Path("RUN/arms/METHOD-seed0") and "arms/METHOD-seedN/" in page
    assert run.trial("METHOD", 1).path == Path("RUN/tuning/METHOD/trial-1") and "METHOD/trial-N/" in page


def test_a_name_stays_in_its_folder(tmp_path):
    assert run_folder(tmp_path, "mine").path == tmp_path / "runs" / "mine"
    with pytest.raises(UserError, match="name '../up' is not allowed"):
        run_folder(tmp_path, "../up")
    with pytest.raises(UserError, match="is not allowed"):
        RunFolder(tmp_path).arm("../../up", 0)
