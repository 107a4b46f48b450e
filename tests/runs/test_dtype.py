"""--dtype: what computes in bfloat16, and what stays in float32."""

import torch
from command_line import harness
from safetensors.torch import load_file

SMALL = ("run", "--method", "dpo", "--benchmark", "math", "--limit", 4, "--budget", "2e10", "--ledger", "nominal")
REMARK = "Models compute in bfloat16 (--dtype)."


def test_a_run_in_bfloat16_says_so_and_keeps_its_weights_in_float32(tmp_path):
    assert REMARK in harness(*SMALL, "--dtype", "bfloat16", cwd=tmp_path)
    (weights,) = tmp_path.glob("results/runs/*/arms/dpo-seed0/checkpoints/*/model.safetensors")
    assert {each.dtype for each in load_file(weights).values()} == {torch.float32}
    told = harness(*SMALL, cwd=tmp_path, code=2)  # as in float32, which would be other numbers
    assert "dtype" in told
