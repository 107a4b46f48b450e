"""Models that can not be saved, built or trained as they are: repaired or refused before anything is spent."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from harness import cli
from harness.engines import loading, saving
from harness.engines.classifier import RewardModel
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.fingerprints import of_model
from harness.models.folder import INDEX
from harness.models.weights import parameter_count
from harness.training import state
from harness.training.environment import check_environment
from sso import SSOConfig, SSOTrainer

PAIRS = [{"prompt": f"Say {word}", "chosen": word, "rejected": "no"} for word in ("red", "blue", "green", "seven")]
PAIR = (7, 30, 41, 52), (60, 61, 4)  # token ids of a prompt and its completion


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    """A folder of a model that a test may spoil."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture(autouse=True)
def told_anew():
    loading.tell.cache_clear()


def edit(file, **changes):
    """Changes entries of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content = {name: value for name, value in (content | changes).items() if value is not None}
    file.write_text(json.dumps(content))


@pytest.fixture
def harness(tmp_path, monkeypatch, capsys):
    """The command as its entry point runs it: exit code and what it told on standard error."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))

    def call(folder, *more):
        words = ["run", "--method", "dpo", "--model", str(folder), "--preferences", str(tmp_path / "pairs.jsonl")]
        words += ["--benchmark", "math", "--limit", "2", "--answer-tokens", "4", "--budget", "updates=1"]
        words += ["--set", "dpo.batch_size=4", "--results", str(tmp_path / "results"), *more]
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, capsys.readouterr().err

    return call


def refused(call, folder, *parts):
    """One line says why, with exit code 2, and nothing was scored or trained."""
    code, told = call(folder)
    (line,) = [line for line in told.splitlines() if line.startswith("error:")]
    assert code == 2 and "Traceback" not in told
    for part in parts:
        assert part in line
    runs = folder.parent / "results" / "runs"
    assert not [each for each in runs.rglob("*") if each.parent.name in ("checkpoints", "samples")]
    return line


# What is saved with a model


SAVED = "results/runs/experiment/arms/dpo-seed0/checkpoints/policy"


def test_sampling_values_without_do_sample(model, harness, tmp_path, monkeypatch):
    """As Llama-2-chat and Vicuna are published. States of longer trainings are saved by the trainer itself."""
    edit(model / "generation_config.json", temperature=0.9, top_p=0.6)
    monkeypatch.setattr(state, "SHORTEST", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    states = []
    monkeypatch.setattr(state, "sync", states.append)
    code, told = harness(model, "--budget", "updates=2", "--set", "dpo.batch_size=2")
    assert code == 0, told
    assert told.count("generation_config: do_sample is true (temperature, top_p given)") == 1
    saved = json.loads((tmp_path / SAVED / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.9, 0.6)
    assert TransformersEngine.load(tmp_path / SAVED, device="cpu").parameters == parameter_count(model)
    assert states


def test_the_trainer_of_the_library_saves_them_too(model, tmp_path):
    edit(model / "generation_config.json", temperature=0.9, top_p=0.6)
    config = SSOConfig(str(tmp_path / "sso"), use_cpu=True, principle_set="testbed")
    trainer = SSOTrainer(str(model), args=config, train_dataset=[{"prompt": row["prompt"]} for row in PAIRS])
    trainer.save_model(str(tmp_path / "saved"))
    assert GenerationConfig.from_pretrained(tmp_path / "saved").do_sample is True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"top_k": 20}, {"do_sample": True, "top_k": 20}),
        ({"temperature": 0.9, "do_sample": False}, {"do_sample": False, "temperature": None}),
        ({"early_stopping": True}, {"early_stopping": None}),
        ({"length_penalty": 2.0, "num_beams": 1}, {"length_penalty": None}),
        ({"length_penalty": 2.0, "num_beams": 4}, {"length_penalty": 2.0}),
        ({"temperature": 0.6, "length_penalty": 2.0}, {"do_sample": True, "length_penalty": None}),
        ({"pad_token_id": -1}, {"pad_token_id": None}),
        ({"pad_token_id": 261}, {"pad_token_id": None}),
        ({"eos_token_id": [4, 32000]}, {"eos_token_id": [4]}),
        ({"eos_token_id": 32000, "bos_token_id": 32000}, {"eos_token_id": None, "bos_token_id": None}),
    ],
)
def test_settings_of_generation_that_are_repaired(model, tmp_path, given, expected):
    edit(model / "generation_config.json", **given)
    engine = TransformersEngine.load(model, device="cpu")
    saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    saving.save(engine.model, engine.tokenizer, tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert {name: getattr(saved, name) for name in expected} == expected
    assert 4 in engine.stop_tokens and max(engine.stop_tokens) < 261


def test_settings_that_can_not_be_repaired(model, harness):
    engine = TransformersEngine.load(model, device="cpu")
    engine.model.generation_config.num_return_sequences = 3
    with pytest.raises(
        UserError, match="cannot be trained, because the result could not be saved .*num_return_sequences"
    ):
        saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    edit(model / "generation_config.json", num_return_sequences=3)
    refused(harness, model, "num_return_sequences")


def test_settings_of_generation_in_config(model, tmp_path):
    """Where old files have them, and transformers refuses to write them."""
    edit(model / "config.json", temperature=0.7, do_sample=True)
    engine = TransformersEngine.load(model, device="cpu")
    saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    saving.save(engine.model, engine.tokenizer, tmp_path / "saved")
    assert "temperature" not in json.loads((tmp_path / "saved/config.json").read_text())


@pytest.mark.parametrize("pad", [261, 32000, -1])
def test_a_padding_id_outside_the_embedding(model, tmp_path, pad, capsys):
    """With -1 the last row would not be trained; any other can not be built."""
    edit(model / "config.json", pad_token_id=pad)
    for _ in range(2):
        engine = TransformersEngine.load(model, device="cpu")
    told = capsys.readouterr().err
    assert told.count(f"config.json has pad_token_id {pad}, outside its 261 tokens") == 1
    assert engine.model.get_input_embeddings().padding_idx is None
    saving.save(engine.model, engine.tokenizer, tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text()).get("pad_token_id") is None


def with_tokens(folder, tokens, pad=None):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(tokens, special_tokens=True)
    if pad:
        tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    return folder


def test_a_padding_token_without_a_row(model):
    """[PAD] added to the tokenizer alone, as many Llama 2 models were published."""
    engine = TransformersEngine.load(with_tokens(model, ["[PAD]"], "[PAD]"), device="cpu")
    assert engine.tokenizer.pad_token_id < 261
    found = engine.logprobs([PAIR[0], PAIR[0][:2]], [PAIR[1], PAIR[1]])
    alone = [engine.logprobs([prompt], [PAIR[1]])[0].total for prompt in (PAIR[0], PAIR[0][:2])]
    assert [each.total for each in found] == pytest.approx(alone, abs=1e-5)


def test_more_tokens_than_rows(model, harness):
    with_tokens(model, ["<|more|>", "<|and more|>"])
    refused(harness, model, "has 263 tokens", "<|and more|>", "261 rows")


def test_shards(model, harness, tmp_path, monkeypatch):
    """Read from several files, and written to several."""
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    (model / "model.safetensors").unlink()
    for file in (tmp_path / "shards").glob("model*"):
        shutil.copy(file, model)
    assert len(list(model.glob("*.safetensors"))) > 1
    monkeypatch.setattr(saving, "SHARD", "40KB")
    code, told = harness(model)
    assert code == 0, told
    saved = tmp_path / SAVED
    shards = sorted(saved.glob("*.safetensors"))
    engine = TransformersEngine.load(saved, device="cpu")
    assert len(shards) > 1 and engine.parameters == parameter_count(saved) == parameter_count(model)
    before = of_model(saved)
    edit(saved / INDEX, metadata={})
    assert of_model(saved)["weights"] != before["weights"]
    shards[0].unlink()
    with pytest.raises(UserError, match=f"its index names {shards[0].name}, which is not there"):
        TransformersEngine.load(saved, device="cpu")


def test_ties_that_are_not_known_are_refused(model):
    """safetensors can not write one tensor under two names."""
    engine = TransformersEngine.load(model, device="cpu")
    layers = engine.model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match="could not be saved .*shared tensors"):
        saving.check_saveable(engine.model, engine.tokenizer, "it")


def test_settings_that_json_does_not_take(model):
    engine = TransformersEngine.load(model, device="cpu")
    engine.model.config.odd = object()
    with pytest.raises(UserError, match="could not be saved .*not JSON serializable"):
        saving.check_saveable(engine.model, engine.tokenizer, "it")


# Weights that are not those of the model


def test_missing_weights_are_not_made_up(model, harness):
    """transformers would fill them with random numbers."""
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refused(harness, model, "lack 2 weights", "model.layers.1.mlp.up_proj.weight, model.norm.weight")


def test_weights_without_a_place_are_told(model, capsys):
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"v_head.weight": torch.zeros(1, 32)}, model / "model.safetensors", {"format": "pt"})
    TransformersEngine.load(model, device="cpu")
    assert "1 weights have no place in LlamaForCausalLM and are ignored: v_head.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_size": 200}, ["261"]),
        ({"vocab_size": 1000}, ["vocab_size 1,000", "261 rows"]),
        ({"hidden_size": 64, "head_dim": 8}, ["cannot be loaded"]),
        ({"num_hidden_layers": 3}, ["lack", "model.layers.2"]),
        ({"num_hidden_layers": 40}, ["describes a model of", "do not belong to one model"]),
        ({"num_attention_heads": 0}, ["cannot be loaded"]),
        ({"hidden_size": "many"}, ["cannot be loaded"]),
        ({"hidden_act": "none such"}, ["none such"]),
        ({"dtype": "float99"}, ["float99"]),
        ({"model_type": "nonesuch"}, ["nonesuch"]),
        ({"rope_parameters": {"rope_type": "nonesuch"}}, ["nonesuch"]),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ["quantized (gptq)"]),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, ["quantized (awq)"]),
        ({"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}, ["quantized (bitsandbytes)"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["quantized (fp8)"]),
        ({"quantization_config": {"quant_method": "mxfp4"}}, ["quantized (mxfp4)"]),
    ],
)
def test_configurations_that_do_not_fit(model, harness, changes, told):
    edit(model / "config.json", **changes)
    refused(harness, model, *told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json does not hold a JSON object"),
        ("", "config.json is not JSON"),
        ('{"a": ' * 500 + "1" + "}" * 500, "nested more than 64 levels"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "config.json is not JSON"),
        ("{}", "cannot be loaded"),
        (None, "it has no config.json"),
    ],
)
def test_a_broken_config(model, harness, content, told):
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_text(content)
    refused(harness, model, told)


@pytest.mark.parametrize(
    ("file", "told"),
    [("model-Q4.gguf", "only GGUF files"), ("pytorch_model.bin", "pickled PyTorch"), (None, "no .saf")],
)
def test_weights_in_other_formats(model, harness, file, told):
    (model / "model.safetensors").unlink()
    if file:
        (model / file).write_bytes(b"GGUF")
    refused(harness, model, told, "weights are read from safetensors only")


SMALL = {"vocab_size": 261, "num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 1}
T5 = {"vocab_size": 261, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        (T5ForConditionalGeneration, T5Config(**T5), "an encoder-decoder model (t5)"),
        (BertForMaskedLM, BertConfig(**SMALL), "is an encoder"),
        (
            CLIPModel,
            CLIPConfig(text_config=SMALL, vision_config=SMALL | {"image_size": 8, "patch_size": 4}),
            "but reads images or sound",
        ),
    ],
    ids=["t5", "bert", "clip"],
)
def test_models_of_other_kinds(model, harness, kind, config, told):
    (model / "generation_config.json").unlink()
    kind(config).save_pretrained(model)
    refused(harness, model, told)


def test_a_model_without_an_end(model, harness):
    for file in ("config.json", "generation_config.json"):
        edit(model / file, eos_token_id=None)
    edit(model / "tokenizer_config.json", eos_token=None)
    template = "{% for message in messages %}{{ '<|user|>' + message['content'] }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    refused(harness, model, "has no end-of-sequence token")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "nonsense", "cpu:9"])
def test_devices_that_are_not_here(model, harness, device, tmp_path):
    if (device == "cuda" and torch.cuda.is_available()) or (device == "mps" and torch.backends.mps.is_available()):
        pytest.skip(f"{device} is here")
    code, told = harness(model, "--device", device)
    assert code == 2 and f"error: device '{device}'" in told and "Traceback" not in told


def test_a_model_with_adapters_in_it(tiny_model_dir):
    from peft import LoraConfig, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), config)
    inside = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    inside.add_adapter(config)
    for each in (wrapped, inside):
        with pytest.raises(UserError, match="adapters that are not merged: give model.merge_and_unload"):
            TransformersEngine(each, tokenizer, "it")
    TransformersEngine(wrapped.merge_and_unload(), tokenizer, "it")
    compiled = torch.compile(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    with pytest.raises(UserError, match="is a OptimizedModule: give the model of transformers that is inside"):
        TransformersEngine(compiled, tokenizer, "it")


def test_rewards_need_a_configuration_that_can_be_saved_too(model):
    edit(model / "config.json", pad_token_id=32000, num_labels=1, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UserError, match="no weights for score.weight"):  # it is built, and then lacks its head
        RewardModel.load(model, device="cpu")


def test_positions_that_are_counted_as_weights(tmp_path, tiny_model_dir):
    """GPT-2 has a row for each position."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    GPT2LMHeadModel(GPT2Config(vocab_size=261, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    edit(folder / "generation_config.json", eos_token_id=4)
    TransformersEngine.load(folder, device="cpu")
    edit(folder / "config.json", n_positions=2**30)
    with pytest.raises(UserError, match="many times larger than its weights"):
        TransformersEngine.load(folder, device="cpu")


# What stands in the environment


def test_the_trainers_refuse_a_job_of_several_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="the environment sets WORLD_SIZE='2'"):
        SSOConfig(str(tmp_path), use_cpu=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": ""},
        {"LOCAL_RANK": "0", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_SIZE": "2"},
        {"ACCELERATE_MIXED_PRECISION": "fp16"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8"},
        {"ACCELERATE_USE_FSDP": "true"},
        {"ACCELERATE_USE_DEEPSPEED": "true"},
        {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
        {"ACCELERATE_TORCH_DEVICE": "meta"},
        {"FSDP_CPU_RAM_EFFICIENT_LOADING": "1"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_variables_that_change_training(model, harness, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name = next(iter(variables))
    line = refused(harness, model, f"the environment sets {name}='{variables[name]}'", f"unset {name}")
    assert "--gpus" in line or "--launcher" in line


def test_variables_that_do_not(monkeypatch):
    check_environment({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "10.0.0.1", "SLURM_NTASKS": "8"})
    check_environment(
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "false", "ACCELERATE_LOG_LEVEL": "info"}
    )
    check_environment({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "OMP_NUM_THREADS": "4"})


def test_a_command_in_a_job_of_several_processes_ends_at_once(tmp_path):
    """With RANK and MASTER_ADDR it would wait for ever."""
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29556"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "--method", "dpo", "--budget", "updates=1"],
        cwd=tmp_path,
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: the environment sets WORLD_SIZE='2'")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "results").exists()
