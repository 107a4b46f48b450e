"""SSO as a library: the example of the documentation, the options, going on after an interruption."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.testbed.prompts import prompts
from sso import SSOConfig, SSOTrainer, SSOVersion1Config, SSOVersion1Trainer

DOCUMENT = Path(__file__).parent.parent / "docs" / "training.md"


def rows(number):
    return [{"prompt": prompt.messages[0]["content"]} for prompt in prompts()[:number]]


def config(folder, kind=SSOConfig, **changes):
    values = {
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 64,
        "temperature": 1.0,
        "top_p": 1.0,
        "principle_set": "testbed",
    }
    return kind(str(folder), **(values | changes))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_example_of_the_documentation(testbed_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 21
    exec(compile(example, str(DOCUMENT), "exec"), {})
    generator, policy = (read(tmp_path / f"sso-output/preferences/{name}.jsonl") for name in ("generator", "policy"))
    assert 32 < len(generator) <= 64 < len(policy) <= 128
    assert {len(row["sequences"]) for row in generator} == {4}
    history = read(tmp_path / "sso-output/training/policy.jsonl")
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[-1]["learning_rate"] < history[1]["learning_rate"] == pytest.approx(1e-4)
    policy, start = (TransformersEngine.load(each, device="cpu") for each in ("sso-policy", testbed_model_dir))
    assert policy.weights_hash != start.weights_hash


def test_a_second_call_does_nothing_again(testbed_model_dir, tmp_path, monkeypatch):
    def train(**changes):
        trainer = SSOTrainer(str(testbed_model_dir), config(tmp_path, generator_prompts=24, **changes), rows(24))
        result = trainer.train()
        return result, trainer.trained.worked, trainer.engine.weights_hash, trainer.trained.engine().weights_hash

    first, again = train(), train()
    assert (first[1], again[1]) == (True, False)
    assert first[0] == again[0] and first[2] != first[3] == again[3]
    with pytest.raises(UserError, match=r"made with another arguments\.beta \(0.1, now 0.5\).*another folder"):
        train(beta=0.5)
    updates = [len(read(tmp_path / f"training/{stage}.jsonl")) for stage in ("generator", "policy")]
    assert first[0].metrics["flops"] > 0 and first[0].global_step == sum(updates)


def test_version_1_with_a_loaded_model_and_adapters(testbed_model_dir, tmp_path):
    from peft import LoraConfig

    start = TransformersEngine.load(testbed_model_dir, device="cpu")
    args = config(tmp_path, SSOVersion1Config, iterations=2, filter=False, weight=True, detach_weight=True)
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SSOVersion1Trainer(start.model, args, rows(16), start.tokenizer, adapters)
    trainer.train()
    history = read(tmp_path / "training/iteration-2.jsonl")
    assert history[0]["weight"] > 0.5  # likelihoods are below 1
    changed = trainer.model.state_dict()
    for name, before in start.model.state_dict().items():
        assert torch.equal(before, changed[name]) == ("_proj" not in name), name
    trainer.save_model()
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("loss", ["ipo", "simpo", "orpo"])
def test_base_losses(testbed_model_dir, tmp_path, loss):
    trainer = SSOTrainer(str(testbed_model_dir), config(tmp_path, loss_type=loss, generator_prompts=12), rows(16))
    result = trainer.train()
    assert math.isfinite(result.training_loss)
    assert ("reference" in trainer.trained.ledger.roles) == (loss == "ipo")


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"loss_type": "apo_zero"}, rows(8), "apo_zero"),
        ({"use_positive": False, "use_negative": False}, rows(8), r"needs L\+ or L-"),
        ({"principles": "model"}, rows(8), "principle_model"),
        ({}, [{"question": 3}], 'row 0: "question" must be a text'),
        ({}, [], "has no rows"),
        ({}, rows(2), "too small for one update"),
    ],
)
def test_mistakes(testbed_model_dir, tmp_path, changes, data, message):
    with pytest.raises(UserError, match=message):
        SSOTrainer(str(testbed_model_dir), config(tmp_path, **changes), data).train()


def test_a_loaded_model_needs_its_tokenizer(testbed_model_dir, tmp_path):
    model = TransformersEngine.load(testbed_model_dir, device="cpu").model
    with pytest.raises(UserError, match="processing_class"):
        SSOTrainer(model, config(tmp_path), rows(8))
