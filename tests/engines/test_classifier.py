"""Rewards of a sequence classifier: what is refused, where the reward is read, and what must not depend on a batch."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from encoding import reply_ids
from small_classifier import save_classifier
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from harness.engines.classifier import RewardModel, spare_token
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.folder import is_classifier

QUESTIONS = ["2 + 2?", "Name a colour that is not red, please, and say why you chose it.", "Hi", "And then?"]
REPLIES = ["4", "Blue, because the sky is.", "", "x" * 90]


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    return save_classifier(tiny_model_dir, tmp_path_factory.mktemp("classifier") / "model")


def encode(model):
    prompts = [model.encode_chat([{"role": "user", "content": question}]) for question in QUESTIONS]
    return prompts, [reply_ids(model, reply) for reply in REPLIES]


def test_rewards_are_the_head_at_the_last_token(folder):
    """Against the backbone and the head called by hand, one sequence at a time and without padding."""
    model = RewardModel.load(folder, device="cpu")
    prompts, completions = encode(model)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    head = plain.score.weight[0].detach()
    expected = []
    for prompt, completion in zip(prompts, completions, strict=True):
        hidden = plain.model(input_ids=torch.tensor([[*prompt, *completion]])).last_hidden_state
        expected.append((hidden[0, -1].detach() @ head).item())
    assert model.rewards(prompts, completions) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pad_token_id", [0, None, -1])
def test_rewards_do_not_depend_on_the_batch(tiny_model_dir, tmp_path, pad_token_id):
    folder = save_classifier(tiny_model_dir, tmp_path / "model", pad_token_id=pad_token_id)
    rewards = {}
    for size in (1, 3, 128):
        model = RewardModel.load(folder, device="cpu", batch_size=size)
        rewards[size] = model.rewards(*encode(model))
    assert rewards[3] == pytest.approx(rewards[1], abs=1e-5) and rewards[128] == pytest.approx(rewards[1], abs=1e-5)
    assert len(set(rewards[1])) == len(QUESTIONS)


def test_padding_with_the_stop_token_would_move_the_reward(tiny_model_dir, tmp_path):
    """A checkpoint that was trained so keeps its habit: the reward is read at the last token that is no padding."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    usual = RewardModel.load(save_classifier(tiny_model_dir, tmp_path / "a"), device="cpu")
    moved = RewardModel.load(
        save_classifier(tiny_model_dir, tmp_path / "b", pad_token_id=tokenizer.eos_token_id), device="cpu"
    )
    prompts, completions = encode(usual)
    without_end = [completion[:-1] for completion in completions]
    assert moved.rewards(prompts, completions) == pytest.approx(usual.rewards(prompts, without_end), abs=1e-5)
    assert moved.rewards(prompts, completions) != pytest.approx(usual.rewards(prompts, completions), abs=1e-3)


def test_a_spare_token_is_never_the_last_one(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert spare_token(tokenizer, tokenizer.eos_token_id) == tokenizer.pad_token_id
    tokenizer.pad_token = tokenizer.eos_token
    assert spare_token(tokenizer, tokenizer.eos_token_id) == 0
    assert spare_token(tokenizer, 0) == tokenizer.eos_token_id


def test_a_reply_ends_as_the_template_ends_it(tiny_model_dir, folder, tmp_path):
    """Templates such as Qwen's write a new line after the stop token; the reward is read there."""
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    template = (tiny_model_dir / "chat_template.jinja").read_text().replace("'<|end|>'", "'<|end|>\\n'")
    (other / "chat_template.jinja").write_text(template)
    for path, ending in ((folder, "<|end|>"), (other, "<|end|>\n")):
        model = RewardModel.load(path, device="cpu")
        chat = [{"role": "user", "content": "2 + 2?"}]
        whole = model.encode_chat([*chat, {"role": "assistant", "content": "4"}], add_generation_prompt=False)
        assert (*model.encode_chat(chat), *reply_ids(model, "4")) == whole
        assert model.tokenizer.decode(whole).endswith(f"4{ending}")


def test_advance_counts_and_order_is_kept(folder):
    model = RewardModel.load(folder, device="cpu", batch_size=3)
    counts = []
    prompts, completions = encode(model)
    rewards = model.rewards(prompts, completions, counts.append)
    assert sum(counts) == len(prompts)
    assert model.rewards(prompts[::-1], completions[::-1]) == pytest.approx(rewards[::-1], abs=1e-5)
    assert model.rewards([], []) == []


def test_a_language_model_is_no_reward_model(tiny_model_dir):
    """Its score head would be random: rewards that look like rewards."""
    with pytest.raises(UserError, match="no weights for score.weight"):
        RewardModel.load(tiny_model_dir, device="cpu")


@pytest.mark.parametrize("outputs", [2, 3])
def test_more_outputs_are_refused(tiny_model_dir, tmp_path, outputs):
    folder = save_classifier(tiny_model_dir, tmp_path / "model", outputs)
    with pytest.raises(UserError, match=f"{outputs} outputs: a reward model has one"):
        RewardModel.load(folder, device="cpu")


def test_pickled_weights_and_absent_models_are_refused(folder, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(AutoModelForSequenceClassification.from_pretrained(folder).state_dict(), pickled / "pytorch_model.bin")
    for path in (pickled, tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot be loaded"):
            RewardModel.load(path, device="cpu")


def test_too_long_is_refused(folder):
    model = RewardModel.load(folder, device="cpu")
    with pytest.raises(UserError, match="600 tokens do not fit the context"):
        model.rewards([(5,) * 500], [(6,) * 100])


def test_facts_are_those_of_the_engine(tiny_model_dir, folder):
    engine, model = TransformersEngine.load(tiny_model_dir, device="cpu"), RewardModel.load(folder, device="cpu")
    assert model.context_length == engine.context_length == 512
    assert model.parameters == engine.parameters + AutoConfig.from_pretrained(tiny_model_dir).hidden_size
    assert model.weights_hash == RewardModel.load(folder, device="cpu").weights_hash != engine.weights_hash


def test_a_head_in_bfloat16_scores_in_float32(folder):
    """bfloat16 has 8 bits: rewards of 10 and 10.02 would tie."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    reward_model = RewardModel(model, AutoTokenizer.from_pretrained(folder), "x")
    rewards = reward_model.rewards(*encode(reward_model))
    assert any(float(torch.tensor(reward).bfloat16()) != reward for reward in rewards)


def test_is_classifier_reads_the_configuration_alone(tiny_model_dir, folder, tmp_path):
    assert is_classifier(folder) and not is_classifier(tiny_model_dir) and not is_classifier(tmp_path)
    for text in ("{", "[]", "{}", json.dumps({"architectures": None})):
        (tmp_path / "config.json").write_text(text)
        assert not is_classifier(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForSequenceClassification"]}))
    assert is_classifier(tmp_path)


def test_the_benchmark_imports_nothing_heavy():
    code = (
        "import sys, harness.benchmarks.reward_model; "
        "print([n for n in ('torch', 'transformers', 'trl') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
