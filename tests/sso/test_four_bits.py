"""Adapters on weights in 4 bits, really trained where bitsandbytes is installed (the extra quantization)."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback

from harness.engines import counting, loading
from harness.engines.transformers import TransformersEngine
from harness.testbed.prompts import prompts
from harness.training import state
from sso import SSOTrainer, SSOVersion1Trainer

SETTINGS = {
    **{"learning_rate": 1e-3, "per_device_train_batch_size": 2, "max_completion_length": 48, "use_cpu": True},
    **{"temperature": 1.0, "top_p": 1.0, "principle_set": "testbed", "report_to": "none"},
}
ROWS = [{"prompt": list(prompt.messages)} for prompt in prompts()[:8]]


def nf4(**changes):
    return BitsAndBytesConfig(load_in_4bit=True, **{"bnb_4bit_quant_type": "nf4", **changes})


def lora():
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def trainer_of(model, folder, kind=SSOTrainer, settings=None, **arguments):
    own = {"generator_prompts": 4} if kind is SSOTrainer else {"iterations": 2, "filter": False}
    args = kind.config(str(folder), **{**SETTINGS, **own, **(settings or {})})
    model = str(model) if isinstance(model, Path) else model
    return kind(model, args=args, train_dataset=ROWS, **{"peft_config": lora(), **arguments})


def history(folder, stage):
    return [json.loads(line) for line in (folder / "training" / f"{stage}.jsonl").read_text().splitlines()]


def loaded(folder, config=None):
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config or nf4(), dtype=torch.float32)


@pytest.fixture
def bitsandbytes():
    return pytest.importorskip("bitsandbytes", reason="the extra quantization is not installed")


def test_adapters_are_trained_and_saved_and_the_base_stays(testbed_model_dir, tmp_path, bitsandbytes):
    out = tmp_path / "out"
    trainer = trainer_of(testbed_model_dir, out, quantization_config=nf4(bnb_4bit_use_double_quant=True))
    start = trainer.engine
    weights, flops = loading.weights_hash(start.model), start.needed()
    plain = AutoModelForCausalLM.from_pretrained(testbed_model_dir)
    assert start.parameters == loading.parameter_count(plain) > 1.5 * sum(map(torch.numel, start.model.parameters()))
    assert flops == counting.of_model(plain) and start.needed(lora()) == counting.of_model(plain, lora())
    result = trainer.train()
    assert loading.weights_hash(start.model) == weights  # neither sampling nor training changed it
    assert start.reading.packs and result.metrics["flops"] > 0
    first, *_, last = history(out, "policy")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the reference is the base without adapters
    assert last["loss"] != first["loss"]
    policy = trainer.trained.engine()
    assert policy.needed() == counting.of_model(plain, lora())  # adapters that are not merged compute, too
    assert policy.needed().reading.position > flops.reading.position
    trainer.save_model(str(tmp_path / "policy"))
    saved = {path.name for path in (tmp_path / "policy").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= saved
    assert "model.safetensors" not in saved and "config.json" not in saved
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(testbed_model_dir)
    merged = TransformersEngine.load(tmp_path / "policy", device="cpu")  # as the harness's commands load it
    assert merged.parameters == start.parameters and merged.weights_hash not in (weights, policy.weights_hash)
    same_numbers_as_whole_weights(trainer, testbed_model_dir, tmp_path / "policy")


def same_numbers_as_whole_weights(trainer, base, policy):
    """The saved adapters, on the same weights written out as 32-bit numbers, give the log-probabilities."""
    whole = loaded(base, nf4(bnb_4bit_use_double_quant=True)).dequantize().float()
    tokens = torch.arange(5, 25)
    prompt, completion = tuple(tokens[:4].tolist()), tuple(tokens[4:].tolist())
    adapted = PeftModel.from_pretrained(whole, policy, torch_device="cpu").eval()
    for engine, adapters in [(trainer.trained.engine(), nullcontext()), (trainer.engine, adapted.disable_adapter())]:
        with torch.no_grad(), adapters:
            scores = adapted(tokens[None]).logits[0].log_softmax(-1)
        expected = scores[3:-1].gather(1, tokens[4:, None]).sum().item()
        (read,) = engine.logprobs([prompt], [completion])
        assert read.total == pytest.approx(expected, rel=1e-6)


def test_a_second_call_does_nothing_and_other_bits_are_another_training(testbed_model_dir, tmp_path, bitsandbytes):
    def trainer(**changes):
        settings = {"model_init_kwargs": {"quantization_config": nf4(**changes)}}
        return trainer_of(testbed_model_dir, tmp_path, settings=settings)

    first, again = trainer(), trainer()
    assert first.train().metrics == again.train().metrics
    assert (first.trained.worked, again.trained.worked) == (True, False)
    assert first.trained.engine().weights_hash == again.trained.engine().weights_hash
    other = trainer(bnb_4bit_compute_dtype=torch.bfloat16)
    assert other.engine.weights_hash != first.engine.weights_hash and other.engine.reading.packs
    with pytest.raises(ValueError, match="quantization_config.bnb_4bit_compute_dtype.*another output_dir"):
        other.train()
    again.save_model()
    assert not (tmp_path / "README.md").exists()
    again.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "- bitsandbytes 0." in card
    again.save_model()
    assert (tmp_path / "README.md").read_text() == card


def test_iterations_train_the_adapters_of_a_loaded_model_on(testbed_model_dir, tmp_path, bitsandbytes):
    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)
    settings = {"activation_checkpointing": True}
    trainer = trainer_of(loaded(testbed_model_dir), tmp_path, SSOVersion1Trainer, settings, processing_class=tokenizer)
    trainer.train()
    first = history(tmp_path, "iteration-2")[0]
    assert first["chosen_logratio"] == pytest.approx(0, abs=1e-4)  # the reference has the first iteration's adapters
    assert all(row["grad_norm"] > 0 for row in history(tmp_path, "iteration-2"))
    one, two = (
        trainer.engine.with_adapters(tmp_path / "checkpoints" / f"iteration-{number}").adapted.state_dict()
        for number in (1, 2)
    )
    moved = {name for name, weight in two.items() if not torch.equal(weight, one[name])}
    assert moved and all("lora_" in name for name in moved)


def test_an_interrupted_training_goes_on(testbed_model_dir, tmp_path, bitsandbytes, monkeypatch):
    class Stop(TrainerCallback):
        def __init__(self, step):
            self.step = step

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == self.step:
                raise KeyboardInterrupt

    def trainer(name, step):
        given = {"settings": {"iterations": 1}, "quantization_config": nf4(), "callbacks": [Stop(step)]}
        return trainer_of(testbed_model_dir, tmp_path / name, SSOVersion1Trainer, **given)

    monkeypatch.setattr(state, "SHORTEST", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    whole = trainer("whole", None)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("stopped", 1).train()
    assert list((tmp_path / "stopped" / "training").rglob("checkpoint-1"))
    again = trainer("stopped", None)
    again.train()
    assert again.trained.engine().weights_hash == whole.trained.engine().weights_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_config": None}, "a model in 4 bits cannot be trained without adapters: give peft_config"),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, "asks for bitsandbytes in 8 bits, and only"),
        ({"settings": {"model_init_kwargs": {"quantization_config": nf4()}}}, "quantization_config is given twice"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(testbed_model_dir, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        trainer_of(testbed_model_dir, tmp_path, **{"quantization_config": nf4(), **changes})


def test_without_bitsandbytes_it_is_refused_before_anything_is_loaded(testbed_model_dir, tmp_path, monkeypatch):
    from harness.engines import quantization

    def missing(name):
        raise quantization.PackageNotFoundError(name)

    monkeypatch.setattr(quantization, "version", missing)
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="weights in 4 bits need bitsandbytes, which is not installed"):
        trainer_of(testbed_model_dir, tmp_path, quantization_config={"load_in_4bit": True})


def test_models_that_cannot_be_used_in_4_bits(testbed_model_dir, tmp_path, bitsandbytes):
    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)
    model = loaded(testbed_model_dir)
    with pytest.raises(ValueError, match="quantization_config has no effect on a model that is loaded already"):
        trainer_of(model, tmp_path, processing_class=tokenizer, quantization_config=nf4())
    with pytest.raises(ValueError, match="cannot be trained without adapters"):
        trainer_of(model, tmp_path, processing_class=tokenizer, peft_config=None)
    model.config._name_or_path = "nobody/nothing"
    with pytest.raises(ValueError, match="'nobody/nothing' is neither a folder nor a model of the hub"):
        trainer_of(model, tmp_path, processing_class=tokenizer)
    adapted = get_peft_model(loaded(testbed_model_dir), lora())
    with pytest.raises(ValueError, match="adapters on quantized weights .bitsandbytes in 4 bits., which they cannot"):
        trainer_of(adapted, tmp_path, processing_class=tokenizer, peft_config=None)
    get_peft_model(AutoModelForCausalLM.from_pretrained(testbed_model_dir), lora()).save_pretrained(tmp_path / "lora")
    with pytest.raises(ValueError, match="is an adapter, which cannot be merged into weights in 4 bits"):
        trainer_of(tmp_path / "lora", tmp_path, quantization_config=nf4())
