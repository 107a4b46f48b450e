"""PEFT adapters as models: merged into their base, from safetensors alone, from a folder or the hub."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from loopback_hub import loopback_hub
from paths import ROOT
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.engines import saving
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.fingerprints import of_model
from harness.models.weights import parameter_count

PAIR = (7, 30, 41, 52), (60, 61, 4)  # token ids of a prompt and its completion


def saved(base, folder, config):
    """An adapter with random weights in a folder, as PEFT saves it."""
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return saved(tiny_model_dir, tmp_path_factory.mktemp("adapter"), config)


def edited(adapter, folder, **changes):
    """A copy of an adapter with other entries in its configuration."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_an_adapter_is_merged_into_its_base(adapter, tiny_model_dir):
    engine = TransformersEngine.load(adapter, device="cpu")
    (prompt, completion) = PAIR
    found = engine.logprobs([prompt], [completion])[0].total
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), adapter).eval()  # unmerged
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    expected = sum(logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(completion))
    assert found == pytest.approx(expected, abs=1e-4)
    base = TransformersEngine.load(tiny_model_dir, device="cpu")
    assert abs(found - base.logprobs([prompt], [completion])[0].total) > 0.1
    assert engine.parameters == base.parameters == parameter_count(adapter)  # no trace of the adapter is left
    assert engine.weights_hash != base.weights_hash
    chat = [{"role": "user", "content": "Why?"}]
    assert engine.encode_chat(chat) == base.encode_chat(chat)  # the base's tokenizer


def test_its_digests_are_also_of_its_base(adapter, tiny_model_dir, tmp_path):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    moved = edited(adapter, tmp_path / "adapter", base_model_name_or_path=str(base))
    before = of_model(moved)
    assert before.keys() == {"weights", "base"}
    shutil.copyfile(base / "model.safetensors", base / "extra.safetensors")
    after = of_model(moved)
    assert after["base"] != before["base"] and after["weights"] == before["weights"]


def test_what_is_refused(adapter, tiny_model_dir, tmp_path):
    pickled = edited(adapter, tmp_path / "pickled")
    torch.save({"weight": torch.zeros(1)}, pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    stacked = edited(adapter, tmp_path / "stacked", base_model_name_or_path=str(adapter))
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    cases = {
        pickled: "no adapter_model.safetensors: weights are read from safetensors only",
        stacked: "is an adapter on another adapter",
        edited(adapter, tmp_path / "nowhere", base_model_name_or_path="nobody/nothing"): "for a model that is not here",
        edited(adapter, tmp_path / "nameless", base_model_name_or_path=None): "names no base model",
        edited(adapter, tmp_path / "narrow", target_modules=["q_proj"]): "was made for another model",
        edited(adapter, tmp_path / "rank", r=8): "was made for another model: 28 weights do not fit",
        saved(tiny_model_dir, tmp_path / "prompts", config): "cannot be merged into a model's weights",
    }
    for folder, message in cases.items():
        with pytest.raises(UserError, match=message):
            TransformersEngine.load(folder, device="cpu")


def with_added_tokens(base, folder, **options):
    """An adapter that was trained with two added tokens: its folder, and the model as it was trained."""
    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|think|>", "<|done|>"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return edited_config(folder, base_model_name_or_path=str(base)), adapted.merge_and_unload().eval()


def edited_config(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.fixture(scope="module")
def untied(tiny_model_dir, tmp_path_factory):
    """As the tiny model, with a head of its own."""
    folder = shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("untied") / "model")
    config = AutoConfig.from_pretrained(tiny_model_dir, tie_word_embeddings=False)
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("tied", "options"),
    [
        (True, {"modules_to_save": ["embed_tokens"]}),
        (True, {}),  # PEFT then saves the embedding, as its rows are others than the base's
        (True, {"trainable_token_indices": [261, 262]}),
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (False, {}),
    ],
)
def test_a_base_is_resized_to_an_adapter_with_added_tokens(tiny_model_dir, untied, tmp_path, tied, options):
    """PEFT #1457: the tokens are in the adapter's tokenizer, their rows in its weights."""
    folder, model = with_added_tokens(tiny_model_dir if tied else untied, tmp_path / "adapter", **options)
    engine = TransformersEngine.load(folder, device="cpu")
    assert engine.model.get_input_embeddings().weight.shape[0] == len(engine.tokenizer) == 263
    prompt, completion = (7, 30, 261, 41), (262, 60, 261)
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    expected = sum(logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(completion))
    assert engine.logprobs([prompt], [completion])[0].total == pytest.approx(expected, abs=1e-4)
    saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    saving.save(engine.model, engine.tokenizer, tmp_path / "saved")
    assert TransformersEngine.load(tmp_path / "saved", device="cpu").weights_hash == engine.weights_hash


def test_added_tokens_that_nobody_trained_are_refused(adapter, tiny_model_dir, untied, tmp_path):
    """Their rows would be random."""
    folder, _ = with_added_tokens(tiny_model_dir, tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: each for name, each in weights.items() if "lora" in name}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="tokenizer has 263 tokens .*embedding has 261 rows"):
        TransformersEngine.load(folder, device="cpu")
    half, _ = with_added_tokens(untied, tmp_path / "half", modules_to_save=["embed_tokens", "lm_head"])
    weights = load_file(half / "adapter_model.safetensors")
    save_file(
        {name: each for name, each in weights.items() if "lm_head" not in name}, half / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="263 tokens, its base model an embedding of 261 rows, and its adapter has no"):
        TransformersEngine.load(half, device="cpu")


def test_what_does_not_fit_is_named(adapter, tmp_path):
    with pytest.raises(
        UserError, match=r"such as \S*lora_A.weight is \[4, \d+\] in the adapter and \[8, \d+\] in the model"
    ):
        TransformersEngine.load(edited(adapter, tmp_path / "rank", r=8), device="cpu")


def test_an_adapter_of_the_hub_is_fetched_with_its_base(adapter, tiny_model_dir, tmp_path):
    moved = edited(adapter, tmp_path / "adapter", base_model_name_or_path="some/base")
    files = {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"other"}
    repositories = {"some/base": files, "some/adapter": {file.name: file.read_bytes() for file in moved.iterdir()}}
    command = [sys.executable, "-m", "harness", "eval", "some/adapter", "--benchmark", "math", "--limit", "4"]
    command += ["--answer-tokens", "4", "--json"]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    variables |= {"HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}

    def called(**environment):
        done = subprocess.run(command, cwd=tmp_path, env=variables | environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    with loopback_hub(repositories) as url:
        code, table, told = called(HF_ENDPOINT=url)
        assert code == 0, told
        assert "fetching some/adapter from the hub" in told and "fetching some/base from the hub" in told
    assert json.loads(table)["rows"][0]["cells"]["math"]["questions"] == 4
    fetched = {file.name for file in (tmp_path / "hub").rglob("*")}
    assert "adapter_model.safetensors" in fetched and not {"pytorch_model.bin", "onnx"} & fetched
    code, again, told = called(HF_HUB_OFFLINE="1")  # and then needs no hub
    assert (code, again) == (0, table) and told.endswith("were finished before: nothing is computed\n")
