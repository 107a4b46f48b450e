"""Training a reward model on pairs: against TRL and by hand."""

import json
import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from datasets import Dataset
from encoding import reply_ids
from safetensors import safe_open
from trl import RewardConfig, RewardTrainer

from harness.engines.classifier import RewardModel
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.folder import is_classifier
from harness.training.base import TrainingDiverged
from harness.training.dataset import update_order
from harness.training.pairs import RewardOptions, tokenize_pairs
from harness.training.reward_model import RECORD_FILE, train_reward_model
from harness.types import Prompt

OPTIONS = RewardOptions(batch_size=4, micro_batch_size=4)
STILL = replace(OPTIONS, learning_rate=0.0)  # rewards stay those of the start, so that the loss can be recomputed


def pair(index, chosen, rejected, question="Which?"):
    return Prompt(f"pair-{index}", ({"role": "user", "content": f"{index}: {question}"},), chosen, rejected)


PAIRS = [pair(index, "yes " * (index % 3 + 1), "no, never" + "!" * index) for index in range(6)]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu")


def rewards(model, pairs):
    prompts = [model.encode_chat(each.messages) for each in pairs]
    return [
        model.rewards(prompts, [reply_ids(model, getattr(each, side)) for each in pairs])
        for side in ("chosen", "rejected")
    ]


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != RECORD_FILE}


def test_the_loss_is_bradley_terrys(engine, tmp_path):
    """-log sigmoid(r_chosen - r_rejected) = log(1 + exp(r_rejected - r_chosen)), the mean over the pairs of an update,
    by hand from the rewards that the saved model gives."""
    result = train_reward_model(engine, PAIRS, replace(STILL, batch_size=6, micro_batch_size=6), tmp_path / "rm", 0)
    chosen, rejected = rewards(RewardModel.load(tmp_path / "rm", device="cpu"), PAIRS)
    losses = [math.log(1 + math.exp(bad - good)) for good, bad in zip(chosen, rejected, strict=True)]
    assert len(set(losses)) == len(PAIRS)
    assert [row["loss"] for row in result.history] == [pytest.approx(sum(losses) / 6, abs=1e-5)]
    assert result.loss == result.history[-1]["loss"]
    assert result.accuracy == pytest.approx(sum(a > b for a, b in zip(chosen, rejected, strict=True)) / 6)


def test_training_equals_trl(engine, tmp_path):
    """Same pairs, order, seed and settings as text through TRL's own loading, tokenization, padding and loop."""
    result = train_reward_model(engine, PAIRS, OPTIONS, tmp_path / "ours", 0)
    order = update_order(tokenize_pairs(engine, PAIRS, 4096).lengths, OPTIONS.batch_size, seed=0)
    replies = [{"chosen": PAIRS[index].chosen, "rejected": PAIRS[index].rejected} for index in order]
    rows = [
        {
            "prompt": list(PAIRS[index].messages),
            **{side: [{"role": "assistant", "content": text}] for side, text in reply.items()},
        }
        for index, reply in zip(order, replies, strict=True)
    ]
    arguments = RewardConfig(
        output_dir=str(tmp_path / "theirs"),
        seed=0,
        num_train_epochs=1,
        per_device_train_batch_size=OPTIONS.batch_size,
        learning_rate=OPTIONS.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=OPTIONS.warmup_ratio,
        train_sampling_strategy="sequential",
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = RewardTrainer(engine.name, args=arguments, train_dataset=Dataset.from_list(rows))
    trainer.train()
    theirs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(theirs) == len(result.history) == 2
    for own, their in zip(result.history, theirs, strict=True):
        for name in ("loss", "grad_norm", "accuracy", "margin", "num_tokens"):
            assert own[name] == pytest.approx(their[name], rel=1e-4, abs=1e-6), name


def test_dropout_is_off(tiny_model_dir, engine, tmp_path):
    folder = tmp_path / "start"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    dropping = TransformersEngine.load(folder, device="cpu")
    for name, start in (("with", dropping), ("without", engine)):
        train_reward_model(start, PAIRS, OPTIONS, tmp_path / name, 0)
    weights = "model.safetensors"
    assert (tmp_path / "with" / weights).read_bytes() == (tmp_path / "without" / weights).read_bytes()


def test_the_accuracy_weighs_pairs_not_updates(engine, tmp_path):
    """Six pairs in updates of four and two, twice over: the last epoch counts."""
    result = train_reward_model(engine, PAIRS, replace(STILL, epochs=2), tmp_path / "rm", 0)
    chosen, rejected = rewards(RewardModel.load(tmp_path / "rm", device="cpu"), PAIRS)
    assert result.accuracy == pytest.approx(sum(a > b for a, b in zip(chosen, rejected, strict=True)) / 6)
    assert len(result.history) == result.spent.updates == 4


def test_an_update_does_not_depend_on_how_it_is_split(engine, tmp_path):
    """Five pairs in passes of two, two and one: each pair weighs the same."""
    heads = []
    for micro in (6, 2):
        options = replace(OPTIONS, batch_size=6, micro_batch_size=micro, learning_rate=1e-2)
        result = train_reward_model(engine, PAIRS[:5], options, tmp_path / str(micro), 0)
        with safe_open(tmp_path / str(micro) / "model.safetensors", "pt") as file:
            heads.append(file.get_tensor("score.weight"))
        heads.append(torch.tensor(result.history[0]["grad_norm"]))
    torch.testing.assert_close(heads[0], heads[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heads[1], heads[3], atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_bytes(engine, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_reward_model(engine, PAIRS, OPTIONS, tmp_path / name, seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a")["model.safetensors"] != content(tmp_path / "c")["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_scoring_reads_what_training_read(engine, tmp_path):
    """Tokens, end of reply and chat template survive saving; the checkpoint is a classifier in safetensors."""
    train_reward_model(engine, PAIRS, OPTIONS, tmp_path / "rm", 0)
    model = RewardModel.load(tmp_path / "rm", device="cpu")
    data = tokenize_pairs(engine, PAIRS, 4096)
    for index, each in enumerate(PAIRS):
        assert [*model.encode_chat(each.messages), *reply_ids(model, each.chosen)] == data.chosen[index]
    assert is_classifier(tmp_path / "rm")
    assert {"config.json", "model.safetensors", "chat_template.jinja", RECORD_FILE} <= set(
        path.name for path in (tmp_path / "rm").iterdir()
    )


def test_a_tokenizer_that_pads_with_the_stop_token(tiny_model_dir, tmp_path):
    """Common (Llama 2, Mistral): the reward is read at the stop token all the same, in training and in scoring."""
    engine = TransformersEngine.load(tiny_model_dir, device="cpu")
    engine.tokenizer.pad_token = engine.tokenizer.eos_token
    train_reward_model(engine, PAIRS, OPTIONS, tmp_path / "rm", 0)
    assert engine.tokenizer.pad_token == engine.tokenizer.eos_token
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert config["pad_token_id"] not in (None, engine.chat.stop_token)
    assert RewardModel.load(tmp_path / "rm", device="cpu").tokenizer.pad_token_id == config["pad_token_id"]


def test_spending_is_six_n_a_token_of_each_epoch(engine, tmp_path):
    counts = []
    result = train_reward_model(engine, PAIRS, replace(OPTIONS, epochs=2), tmp_path / "rm", 0, counts.append)
    model = RewardModel.load(tmp_path / "rm", device="cpu")
    tokens = sum(
        len(model.encode_chat(each.messages)) + len(reply_ids(model, text))
        for each in PAIRS
        for text in (each.chosen, each.rejected)
    )
    assert result.spent.trained_tokens == 2 * tokens
    assert result.spent.flops == 6 * model.parameters * 2 * tokens
    assert result.spent.padding_tokens > 0
    assert sum(counts) == 2 * len(PAIRS)


def test_pairs_that_can_not_be_used_are_left_out_and_counted(engine, tmp_path):
    pairs = [*PAIRS, pair(6, "same", "same"), pair(7, "y" * 600, "n"), pair(8, "y", "n" * 600)]
    result = train_reward_model(engine, pairs, OPTIONS, tmp_path / "rm", 0)
    assert (result.pairs, result.identical, result.too_long, result.spent.discarded) == (6, 1, 2, 3)
    short = train_reward_model(engine, PAIRS, replace(OPTIONS, max_length=25), tmp_path / "short", 0)
    assert (short.pairs, short.too_long) == (4, 2)  # the longer chats have 22, 23, 25, 25, 26 and 27 tokens


@pytest.mark.parametrize("pairs", [[], [pair(0, "same", "same")], [pair(0, "y" * 600, "n")]])
def test_no_pair_is_a_users_mistake(engine, tmp_path, pairs):
    with pytest.raises(UserError, match="there is no pair to train a reward model on"):
        train_reward_model(engine, pairs, OPTIONS, tmp_path / "rm", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 3}, "not a multiple of micro_batch_size 3"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
    ],
)
def test_options_that_do_not_fit(engine, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train_reward_model(engine, PAIRS, replace(OPTIONS, **changes), tmp_path / "rm", 0)


def test_a_training_that_diverges_leaves_nothing(engine, tmp_path):
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train_reward_model(engine, PAIRS * 3, replace(OPTIONS, learning_rate=1e18, epochs=3), tmp_path / "rm", 0)
    assert not list(tmp_path.iterdir())


def test_a_finished_model_is_kept_until_an_input_changes(engine, tmp_path):
    counts = []

    def train(pairs=PAIRS, options=OPTIONS, seed=0):
        counts.clear()
        return train_reward_model(engine, pairs, options, tmp_path / "rm", seed, counts.append)

    first = train()
    again = train()
    assert asdict(again) == asdict(first) and not counts
    for changed in ({"pairs": PAIRS[:5]}, {"options": replace(OPTIONS, learning_rate=1e-4)}, {"seed": 1}):
        train(**changed)
        assert counts
    train()
    assert counts  # the folder holds the last one only
