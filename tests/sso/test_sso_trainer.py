"""SSO as a library: the example of the documentation, the options, going on after an interruption."""

import json
import math
import re
from datetime import date

import pytest
import torch
from chat_families import model_folder
from paths import DOCS, RESULTS

from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.testbed.prompts import prompts
from harness.training.dataset import update_order
from sso import SSOConfig, SSOTrainer, SSOVersion1Config, SSOVersion1Trainer
from sso.refused import REFUSED

DOCUMENT = DOCS / "training.md"


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
        trainer = SSOTrainer(
            str(testbed_model_dir), args=config(tmp_path, generator_prompts=24, **changes), train_dataset=rows(24)
        )
        result = trainer.train()
        return result, trainer.trained.worked, trainer.engine.weights_hash, trainer.trained.engine().weights_hash

    first, again = train(), train()
    assert (first[1], again[1]) == (True, False)
    assert first[0] == again[0] and first[2] != first[3] == again[3]
    with pytest.raises(UserError, match=r"computed with arguments\.beta=0.1 \(now 0.5\).*another output_dir"):
        train(beta=0.5)
    updates = [len(read(tmp_path / f"training/{stage}.jsonl")) for stage in ("generator", "policy")]
    assert first[0].metrics["flops"] > 0 and first[0].global_step == sum(updates)


def test_version_1_with_a_loaded_model_and_adapters(testbed_model_dir, tmp_path):
    from peft import LoraConfig

    start = TransformersEngine.load(testbed_model_dir, device="cpu")
    args = config(tmp_path, SSOVersion1Config, iterations=2, filter=False, weight=True, detach_weight=True)
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SSOVersion1Trainer(
        start.model, args=args, train_dataset=rows(16), processing_class=start.tokenizer, peft_config=adapters
    )
    trainer.train()
    history = read(tmp_path / "training/iteration-2.jsonl")
    assert history[0]["weight"] > 0.5  # likelihoods are below 1
    changed = trainer.model.state_dict()
    for name, before in start.model.state_dict().items():
        assert torch.equal(before, changed[name]) == ("_proj" not in name), name
    trainer.save_model()
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("loss", ["ipo", "apo_zero", "orpo"])
def test_base_losses(testbed_model_dir, tmp_path, loss):
    trainer = SSOTrainer(
        str(testbed_model_dir), args=config(tmp_path, loss_type=loss, generator_prompts=12), train_dataset=rows(16)
    )
    result = trainer.train()
    assert math.isfinite(result.training_loss)
    assert ("reference" in trainer.trained.ledger.roles) == (loss != "orpo")


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"loss_type": "robust"}, rows(8), "unknown loss_type .robust."),
        ({"use_positive": False, "use_negative": False}, rows(8), r"needs L\+ or L-"),
        ({"principles": "model"}, rows(8), "principle_model"),
        ({}, [{"question": 3}], 'row 0: "question" must be a text'),
        ({}, [], "has no rows"),
        ({}, rows(2), "too small for one update"),
    ],
)
def test_mistakes(testbed_model_dir, tmp_path, changes, data, message):
    with pytest.raises(UserError, match=message):
        SSOTrainer(str(testbed_model_dir), args=config(tmp_path, **changes), train_dataset=data).train()


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("label_smoothing", 0.4, "loss_type"),
        ("loss_weights", [0.5], "loss_type"),
        ("ld_alpha", 0.5, "loss_type"),
        ("f_divergence_type", "js_divergence", "loss_type"),
        ("use_weighting", True, "SSOVersion1Config"),
        ("discopop_tau", 0.1, "loss_type"),
        ("sync_ref_model", True, "the model that a stage starts from"),
        ("ref_model_mixup_alpha", 0.5, "the model that a stage starts from"),
        ("ref_model_sync_steps", 64, "the model that a stage starts from"),
        ("f_alpha_divergence_coef", 0.1, "loss_type"),
        ("dataset_num_proc", 2, "token ids already"),
        ("padding_free", True, "packed without padding"),
        ("pad_to_multiple_of", 8, "packed without padding"),
        ("precompute_ref_batch_size", 8, "generation_batch_size"),
        ("pad_token", "<pad>", "processing_class"),
        ("max_length", 512, "max_completion_length"),
        ("truncation_mode", "keep_end", "max_completion_length"),
        ("label_smoothing_factor", 0.1, "loss_type"),
        ("label_names", ["labels"], "loss_type"),
        ("auto_find_batch_size", True, "split already"),
        ("dataloader_drop_last", True, "an update too"),
        ("ignore_data_skip", True, "skips what it has seen"),
        ("length_column_name", "n", "batched together"),
        ("logging_strategy", "epoch", "every update is logged"),
        ("logging_first_step", True, "every update is logged"),
        ("include_num_input_tokens_seen", True, "number of trained tokens"),
        ("neftune_noise_alpha", 5.0, "without noise"),
        ("data_seed", 3, "set seed"),
        ("do_predict", True, "attribute model"),
        ("fsdp", "full_shard", "one process"),
        ("deepspeed", "zero2.json", "one process"),
        ("ddp_backend", "gloo", "one process"),
        ("ddp_find_unused_parameters", True, "one process"),
        ("ddp_bucket_cap_mb", 25, "one process"),
        ("ddp_broadcast_buffers", True, "one process"),
        ("ddp_static_graph", True, "one process"),
        ("eval_accumulation_steps", 2, "log-probabilities of pairs"),
        ("eval_do_concat_batches", False, "log-probabilities of pairs"),
        ("eval_use_gather_object", True, "log-probabilities of pairs"),
        ("prediction_loss_only", True, "log-probabilities of pairs"),
        ("include_for_metrics", ["inputs"], "log-probabilities of pairs"),
        ("batch_eval_metrics", True, "log-probabilities of pairs"),
        ("bf16_full_eval", True, "set bf16"),
        ("fp16_full_eval", True, "set bf16"),
        ("load_best_model_at_end", True, "the last update"),
        ("save_steps", 10, "save_model"),
        ("save_total_limit", 2, "save_model"),
        ("save_only_model", True, "save_model"),
        ("save_on_each_node", True, "save_model"),
        ("enable_jit_checkpoint", True, "save_model"),
        ("hub_strategy", "checkpoint", "save_model"),
        ("hub_always_push", True, "save_model"),
        ("save_strategy", "epoch", "Leave it at the default"),
        ("train_sampling_strategy", "group_by_length", "Leave it at the default"),
        ("disable_dropout", False, "dropout is always off"),
        ("activation_offloading", True, "activation_checkpointing_kwargs"),
    ],
)
def test_fields_that_would_do_nothing_are_refused_by_name(tmp_path, field, value, instead):
    with pytest.raises(UserError, match=f"{field} (has no effect|is always).*{instead}"):
        config(tmp_path, **{field: value})
    args = config(tmp_path)
    setattr(args, field, value)  # changed afterwards
    with pytest.raises(UserError, match=f"{field} (has no effect|is always)"):
        SSOTrainer("nowhere", args=args, train_dataset=rows(8))


def test_each_refused_field_is_tested():
    (rows,) = [mark.args[1] for mark in test_fields_that_would_do_nothing_are_refused_by_name.pytestmark]
    assert {name for name, _, _ in rows} >= set(REFUSED) - {"parallelism_config"}


def test_what_is_done_anyway_is_accepted(tmp_path):
    config(tmp_path, precompute_ref_log_probs=True, save_strategy="no", train_sampling_strategy="sequential")


def test_adapters_and_tokenizer_are_part_of_what_a_stage_is_made_from(testbed_model_dir, tmp_path):
    from peft import LoraConfig
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)

    def train(r=4, **changes):
        adapters = LoraConfig(r=r, target_modules="all-linear", task_type="CAUSAL_LM")
        args = config(tmp_path, SSOVersion1Config, iterations=1, lr_scheduler_type="polynomial")
        trainer = SSOVersion1Trainer(
            str(testbed_model_dir), args=args, train_dataset=rows(16), **{"peft_config": adapters} | changes
        )
        trainer.train()
        return trainer

    assert train().trained.worked and not train().trained.worked
    mark = json.loads((tmp_path / "steps" / "iteration-1.json").read_text())
    assert mark["depends_on"]["training"]["lr_scheduler"] == "polynomial"
    assert mark["depends_on"]["training"]["lora_rank"] == 4
    with pytest.raises(UserError, match=r"computed with adapters\.r=4 \(now 8\)"):
        train(r=8)
    with pytest.raises(UserError, match=r"computed with adapters"):
        train(peft_config=None)
    tokenizer.chat_template = tokenizer.chat_template + "{# changed #}"
    with pytest.raises(UserError, match=r"computed with other tokenizer\.template"):
        train(processing_class=tokenizer)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match=r"has 769 tokens \('<new>' is the last\) and the embedding 768 rows"):
        train(processing_class=tokenizer)


def test_a_tokenizer_beside_a_models_name_is_used(testbed_model_dir, tmp_path):
    """As in TRL; at 322af91 it was ignored."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    trainer = SSOTrainer(
        str(testbed_model_dir), args=config(tmp_path), train_dataset=rows(8), processing_class=tokenizer
    )
    assert trainer.engine.tokenizer is tokenizer
    plain = tuple(tokenizer("What?", add_special_tokens=False).input_ids)
    assert trainer.engine.encode_chat([{"role": "user", "content": "What?"}])[-len(plain) :] == plain
    assert trainer._loading.stage(testbed_model_dir, trainer.engine).tokenizer is tokenizer


def test_a_principle_set_that_was_edited(testbed_model_dir, tmp_path):
    source = RESULTS / "ablation" / "weak-principles.json"
    file = tmp_path / "principles.json"
    file.write_text(source.read_text())

    def train():
        args = config(tmp_path / "out", generator_prompts=12, principle_set=str(file))
        SSOTrainer(str(testbed_model_dir), args=args, train_dataset=rows(16)).train()

    train()
    file.write_text(file.read_text() + " ")
    with pytest.raises(UserError, match="computed with other option files"):
        train()


@pytest.mark.parametrize(
    ("changes", "passes"),
    [({"max_steps": 1}, None), ({"max_steps": 7}, None), ({"num_train_epochs": 2.0}, 2), ({}, 1)],
)
def test_trained_tokens_are_those_of_the_updates(testbed_model_dir, tmp_path, changes, passes):
    """Counted by hand: an update reads the prompt of an example once, and each of its completions."""
    args = config(tmp_path, generator_prompts=12, per_device_train_batch_size=4, **changes)
    trainer = SSOTrainer(str(testbed_model_dir), args=args, train_dataset=rows(16))
    result = trainer.train()
    expected = 0
    for stage in ("generator", "policy"):
        examples = read(tmp_path / f"preferences/{stage}.jsonl")
        tokens = [tokens_of(each["sequences"]) for each in examples]
        updates = len(read(tmp_path / f"training/{stage}.jsonl"))
        if passes:
            assert updates == passes * math.ceil(len(tokens) / 4)
            expected += passes * sum(tokens)
        else:
            assert updates == changes["max_steps"]
            lengths = [
                max(len(one["prompt_ids"]) + len(one["completion_ids"]) for one in each["sequences"])
                for each in examples
            ]
            order = update_order(lengths, 4, args.seed)
            batches = [order[start : start + 4] for start in range(0, len(order), 4)]
            expected += sum(tokens[index] for update in range(updates) for index in batches[update % len(batches)])
    assert result.metrics["trained_tokens"] == expected


def tokens_of(sequences):
    prompts = {tuple(each["prompt_ids"]) for each in sequences}
    return sum(map(len, prompts)) + sum(len(each["completion_ids"]) for each in sequences)


def test_a_loaded_model_needs_its_tokenizer(testbed_model_dir, tmp_path):
    model = TransformersEngine.load(testbed_model_dir, device="cpu").model
    with pytest.raises(UserError, match="processing_class"):
        SSOTrainer(model, args=config(tmp_path), train_dataset=rows(8))


def test_the_date_of_a_template_is_that_of_the_first_call(tmp_path, monkeypatch):
    """A second call on another day goes on with the same conversations, and finds its stages finished."""
    model = str(model_folder("llama-3.1", tmp_path / "model"))

    def trained(day: str) -> tuple[list, int]:
        class Today(date):
            @classmethod
            def today(cls):
                return date.fromisoformat(day)

        monkeypatch.setattr("sso.trainer.date", Today)
        settings = {"max_completion_length": 4, "per_device_train_batch_size": 1, "generator_prompts": 4}
        config = SSOConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, principle_set="testbed", **settings)
        trainer = SSOTrainer(model, args=config, train_dataset=[{"prompt": f"Why {n}?"} for n in range(4)])
        return trainer.engine.encode_chat(trainer.prompts[0].chat), trainer.day

    first = trained("2026-03-01")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "date.json").write_text('"2026-03-01"\n')
    assert trained("2026-03-02") == first == (first[0], date(2026, 3, 1))


def test_a_row_that_the_template_leaves_a_part_of_is_refused(tmp_path):
    model = str(model_folder("zephyr", tmp_path / "model"))
    rows = [{"prompt": "Why?"}, {"prompt": "Rain?", "tools": [{"type": "function", "function": {"name": "weather"}}]}]
    with pytest.raises(UserError, match="train_dataset, row 1: the chat template of .* leaves out the tool 'weather'"):
        SSOTrainer(model, args=SSOConfig(str(tmp_path / "out"), use_cpu=True, bf16=False), train_dataset=rows)
