"""The examples run: scripts, the notebook, and the script of docs/from-trl.md with either library's class names."""

import os
import re
import subprocess
import sys

import pytest
from paths import DOCS, ROOT

EXAMPLES = ROOT / "examples"


def run(code, folder, *options):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(["-c", code] if "\n" in code else [code]), *options]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("library", ["trl", "sso"])
def test_a_script_of_dpo_trains_with_sso_when_class_names_change(tmp_path, library):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "from-trl.md").read_text(), re.DOTALL)
    if library == "sso":
        code = (
            code.replace("from trl", "from sso").replace("DPOConfig", "SSOConfig").replace("DPOTrainer", "SSOTrainer")
        )
    printed = run(code, tmp_path)
    before, after = re.search(r"held-out pairs ([\d.]+) to ([\d.]+)", printed).groups()
    assert before == "0.6931" and before != after  # log 2: policy and reference agree
    assert (tmp_path / "out" / "trainer_state.json").exists() and (tmp_path / "out" / "eval_results.json").exists()
    assert list((tmp_path / "policy").glob("*.safetensors"))


@pytest.mark.parametrize("script", ["train_sso.py", "train_sso_lora.py"])
def test_scripts(tmp_path, script):
    printed = run(
        str(EXAMPLES / script),
        tmp_path,
        "--output_dir",
        "out",
        "--use_cpu",
        "--rows",
        "32",
        "--generator_prompts",
        "12",
    )
    assert "***** train metrics *****" in printed and "trained_tokens" in printed
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_notebook(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(EXAMPLES / "sso.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    plots = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(plots) == 1
