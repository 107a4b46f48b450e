"""FSDP2 and DeepSpeed ZeRO on two CPU processes: the pinned trajectory, and a whole model in the end.

On GPUs the same code runs over NCCL. A minute each.
"""

import os
import re
from pathlib import Path

import pytest
import torch
import trajectory
from paths import DOCS, HELPERS
from safetensors.torch import load_file
from trajectory import PINNED

from harness.engines.transformers import TransformersEngine
from harness.training.copies import snapshot
from harness.training.processes import start

CONFIGS = DOCS / "launch"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="is about gloo on CPUs"),
]


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["all-weights", "lora"])
@pytest.mark.parametrize(
    ("config", "sharded"),
    [("fsdp2", "FSDP.* DTensor"), ("zero2", "DeepSpeedEngine"), ("zero3", "DeepSpeedEngine")],
)
def test_the_trajectory_of_one_process(config, sharded, options, tiny_model_dir, tmp_path, monkeypatch):
    if config.startswith("zero"):
        pytest.importorskip("deepspeed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(start, "WORKER", "sharded_worker")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]))
    file = tmp_path / "config.yaml"
    file.write_text((CONFIGS / f"{config}.yaml").read_text().replace("mixed_precision: bf16", 'mixed_precision: "no"'))
    engine = TransformersEngine.load(tiny_model_dir, device="cpu")
    launcher = f"accelerate launch --config_file {file} --num_processes 2"
    history = trajectory.run(engine, tmp_path / "two", launcher=launcher, snapshots=[7], **options)
    expected = trajectory.run(engine, tmp_path / "one", snapshots=[7], **options)
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in history] == pytest.approx([row[name] for row in expected], rel=1e-4), name
    if not options:
        assert [row["loss"] for row in history] == pytest.approx(PINNED, rel=1e-4)
    log = (tmp_path / "two" / "processes" / "process-1.log").read_text()
    assert re.search(f"trained: {sharded}", log)
    for place in (Path("model"), snapshot(Path("state"), 7)):
        one, two = (load_file(tmp_path / each / place / "model.safetensors") for each in ("one", "two"))
        assert one.keys() == two.keys()
        for name, values in one.items():
            assert torch.allclose(values, two[name], rtol=0, atol=1e-4), name
    TransformersEngine.load(tmp_path / "two" / "model", device="cpu")
