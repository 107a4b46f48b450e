"""Training against TRL's own trainer, and what must not depend on how a batch is split."""

import copy
import itertools
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from encoding import reply_ids
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

import harness
from harness.budget import Ledger
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.training import state as training_state
from harness.training.base import Training, TrainingDiverged
from harness.training.dataset import Collator, build_data, in_order, update_order
from harness.training.examples import SCHEDULERS, Example, ReferenceSync, TokenSequence, TrainingOptions, lora
from harness.training.losses import PreferenceObjective, SFTObjective
from harness.training.noise import switch_off_dropout
from harness.training.reference import reference_logprobs
from harness.training.trainer import DIVERGED_FILE, train, training_arguments

OPTIONS = TrainingOptions(learning_rate=1e-3, batch_size=4, micro_batch_size=4)
WORDS = ["red", "green", "blue", "seven", "eight", "yes", "no", "maybe"]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu")


def texts(count):
    rng = random.Random(0)
    rows = []
    for index in range(count):
        words = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(3)]
        rows.append((f"{index}: {words[0]}?", words[1], words[2] + "."))
    return rows


def make_examples(engine, count):
    examples = []
    for index, (prompt, chosen, rejected) in enumerate(texts(count)):
        ids = engine.encode_chat([{"role": "user", "content": prompt}])
        pair = (TokenSequence(ids, reply_ids(engine, text)) for text in (chosen, rejected))
        examples.append(Example(f"example-{index}", tuple(pair)))
    return examples


@pytest.fixture(scope="module")
def examples(engine):
    return make_examples(engine, 11)


def reference_of(engine, examples, folder):
    data = build_data(examples, Path(folder) / "reference.arrow", len(examples[0].sequences), 512)
    return reference_logprobs(engine, data, Ledger())


def run(engine, examples, folder, objective=None, options=OPTIONS, seed=0, ledger=None, advance=None, callbacks=()):
    objective, folder = objective or PreferenceObjective(beta=0.5), Path(folder)
    data = build_data(examples, folder / "examples.arrow", objective.sequences, engine.context_length)
    reference = reference_logprobs(engine, data, Ledger()) if objective.needs_reference else None
    training = Training(
        training_arguments(options, folder / "state", seed, on_gpu=False, bf16=False), lora(options), callbacks
    )
    ledger = Ledger() if ledger is None else ledger
    return train(engine, data, objective, reference, training, folder / "model", ledger, advance)


def column(result, name):
    return [row[name] for row in result.history]


def weights(folder):
    return TransformersEngine.load(folder, device="cpu").model.state_dict()


# Against TRL


def test_training_does_without_trl():
    """It is an extra, which bench compares with."""
    root = Path(harness.__file__).parent.parent
    files = [file for package in ("harness", "sso", "baselines") for file in (root / package).rglob("*.py")]
    imports = re.compile(r"^\s*(?:from trl|import trl)\b", re.MULTILINE)
    found = {file.relative_to(root).parts[:2] for file in files if imports.search(file.read_text())}
    assert len(files) > 200 and found == {("harness", "perf")}


@pytest.mark.parametrize(
    ("ours", "theirs", "sync"),
    [
        ("dpo", "sigmoid", None),
        ("ipo", "ipo", None),
        ("hinge", "hinge", None),
        ("dpo", "sigmoid", ReferenceSync(steps=1, mixup=0.6)),
        ("dpo", "sigmoid", ReferenceSync(steps=2, mixup=1.0)),
    ],
)
def test_training_equals_trl(engine, examples, tmp_path, ours, theirs, sync):
    """Same data, order and settings through TRL's tokenization, reference model, loss and loop."""
    result = run(engine, examples, tmp_path / "ours", PreferenceObjective(loss=ours, beta=0.5, sync=sync))

    order = update_order([max(map(len, each.sequences)) for each in examples], OPTIONS.batch_size, seed=0)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in (texts(len(examples))[index] for index in order)
    ]
    policy = copy.deepcopy(engine.model)
    trainer = DPOTrainer(
        policy,
        ref_model=copy.deepcopy(engine.model),
        args=DPOConfig(
            output_dir=str(tmp_path / "theirs"),
            loss_type=theirs,
            sync_ref_model=sync is not None,
            ref_model_sync_steps=sync.steps if sync else 512,
            ref_model_mixup_alpha=sync.mixup if sync else 0.6,
            beta=0.5,
            learning_rate=OPTIONS.learning_rate,
            per_device_train_batch_size=OPTIONS.batch_size,
            num_train_epochs=1,
            lr_scheduler_type=OPTIONS.lr_scheduler,
            warmup_steps=OPTIONS.warmup_ratio,
            adam_beta1=OPTIONS.adam_beta1,
            adam_beta2=OPTIONS.adam_beta2,
            max_grad_norm=OPTIONS.max_grad_norm,
            train_sampling_strategy="sequential",
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=engine.tokenizer,
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]

    assert len(history) == 3
    for mine, theirs_row in zip(result.history, history, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert mine[name] == pytest.approx(theirs_row[name], rel=1e-5, abs=1e-6), name
        if ours != "ipo":  # TRL logs rewards of sums for IPO
            assert mine["margin"] == pytest.approx(theirs_row["rewards/margins"], rel=1e-4, abs=1e-5)
            assert mine["accuracy"] == pytest.approx(theirs_row["rewards/accuracies"])
    trained = weights(result.checkpoint)
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=2e-5)


# The update


def test_the_first_loss_of_dpo_is_ln_2(engine, examples, tmp_path):
    result = run(engine, examples, tmp_path)
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.history[0]["margin"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_do_not_change_the_trajectory(engine, examples, tmp_path, micro):
    """With 11 examples the last update has 3: micro-batches of 2 and 1, which must not count the same."""
    whole = run(engine, examples, tmp_path / "whole")
    options = TrainingOptions(learning_rate=1e-3, batch_size=4, micro_batch_size=micro)
    split = run(engine, examples, tmp_path / "split", options=options)
    for name in ("loss", "grad_norm", "margin", "accuracy", "chosen_logp"):
        assert column(split, name) == pytest.approx(column(whole, name), rel=1e-5, abs=1e-5), name
    for name, tensor in weights(whole.checkpoint).items():
        torch.testing.assert_close(weights(split.checkpoint)[name], tensor, rtol=0, atol=1e-5)


def test_every_example_is_used_once(engine, examples, tmp_path):
    ledger, counts = Ledger(rule="nominal"), []
    result = run(engine, examples, tmp_path, ledger=ledger, advance=counts.append)
    assert result.updates == len(result.history) == 3
    assert counts == [4, 4, 3]

    replies = sum(len(sequence.completion_ids) for each in examples for sequence in each.sequences)
    tokens = sum(len(each.sequences[0].prompt_ids) for each in examples) + replies  # a prompt is read once for a pair
    spent = ledger.roles["train"]
    assert spent.trained_tokens == tokens
    assert spent.padding_tokens == 2  # of a row that fills up the last pass
    assert spent.updates == 3
    assert spent.flops == 6 * engine.parameters * tokens
    assert spent.seconds > 0


@pytest.mark.parametrize("pads", [True, False], ids=["padded", "one by one"])
def test_what_is_computed_in_vain_without_packing_is_counted(engine, examples, tmp_path, monkeypatch, pads):
    """In reading and in training: what the model is given is what is needed and what is booked as wasted."""
    given, forward = [], type(engine.model).forward

    def counted(self, input_ids=None, **more):
        given.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(engine.model), "forward", counted)
    monkeypatch.setattr(engine, "reading", replace(engine.reading, packs=False, pads=pads))
    objective, ledger = PreferenceObjective(beta=0.5), Ledger(rule="nominal")
    data = build_data(examples, tmp_path / "examples.arrow", objective.sequences, engine.context_length)
    reference = reference_logprobs(engine, data, ledger)
    assert sum(given) == data.work.positions + ledger.roles["reference"].padding_tokens
    given.clear()
    options = TrainingOptions(learning_rate=1e-3, batch_size=4, micro_batch_size=2)
    training = Training(training_arguments(options, tmp_path / "state", 0, on_gpu=False, bf16=False))
    train(engine, data, objective, reference, training, tmp_path / "model", ledger)
    spent = ledger.roles["train"]
    assert sum(given) == data.work.positions + spent.padding_tokens
    assert spent.padding_tokens > 0 and spent.wasted_flops > 0


def test_learning_rate_follows_the_schedule(engine, tmp_path):
    options = TrainingOptions(learning_rate=1e-3, batch_size=1, micro_batch_size=1, warmup_ratio=0.2)
    result = run(engine, make_examples(engine, 10), tmp_path, options=options)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert column(result, "learning_rate") == pytest.approx([1e-3 * factor for factor in [0, 0.5, *cosine]])


def test_training_raises_the_margin(engine, examples, tmp_path):
    options = TrainingOptions(learning_rate=3e-3, batch_size=2, micro_batch_size=2, lr_scheduler="constant")
    result = run(engine, examples * 3, tmp_path, options=options)
    trained = TransformersEngine.load(result.checkpoint, device="cpu")
    before, after = (reference_of(each, examples, tmp_path).totals for each in (engine, trained))
    assert min((after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])) > 0


def test_sft_loss_is_the_language_model_s_own(engine, tmp_path):
    prompt = engine.encode_chat([{"role": "user", "content": "Hi"}])
    completions = [reply_ids(engine, text) for text in ("red", "blue", "seven")]
    examples = [Example(str(i), (TokenSequence(prompt, each),)) for i, each in enumerate(completions)]
    result = run(engine, examples, tmp_path, SFTObjective())
    losses = []
    for completion in completions:
        ids = torch.tensor([[*prompt, *completion]])
        labels = torch.tensor([[-100] * len(prompt) + list(completion)])
        with torch.no_grad():
            losses.append(engine.model(input_ids=ids, labels=labels).loss.item())
    assert result.history[0]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_lora_trains_adapters_alone_against_the_model_without_them(engine, examples, tmp_path):
    options = TrainingOptions(learning_rate=1e-2, batch_size=4, micro_batch_size=4, lora_rank=2, lora_alpha=4)
    result = run(engine, examples, tmp_path, options=options)
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    start, trained = engine.model.state_dict(), weights(result.checkpoint)
    changes = {name: trained[name] - start[name] for name in start}
    for name, change in changes.items():
        if "_proj" in name:
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2, name
        else:
            assert not change.any(), name


# What is left behind


def test_identical_runs_write_identical_checkpoints(engine, examples, tmp_path):
    folders = [run(engine, examples, tmp_path / name).checkpoint for name in "ab"]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(files[0])


def test_a_model_in_bfloat16_is_trained_and_saved_in_float32(engine, examples, tiny_model_dir, tmp_path):
    """A step of 1e-6 is far below the resolution of bfloat16: the steps must add up, on the digits of the files."""
    options = TrainingOptions(learning_rate=1e-6, batch_size=1, micro_batch_size=1, lr_scheduler="constant")
    half = TransformersEngine.load(tiny_model_dir, device="cpu", dtype="bfloat16")
    result = run(half, examples * 3, tmp_path, options=options)
    saved = load_file(result.checkpoint / "model.safetensors")
    assert {each.dtype for each in saved.values()} == {torch.float32}
    start = engine.model.state_dict()  # in float32
    moved = [(saved[name] - start[name]).abs() for name in saved if saved[name].ndim == 2]
    assert all((each > 0).float().mean() > 0.5 and each.max() < 1e-4 for each in moved)


def test_the_start_model_is_left_as_it_is(engine, examples, tiny_model_dir, tmp_path):
    result = run(engine, examples, tmp_path)
    start = TransformersEngine.load(tiny_model_dir, device="cpu")
    assert TransformersEngine(engine.model, engine.tokenizer, "again").weights_hash == start.weights_hash
    assert TransformersEngine.load(result.checkpoint, device="cpu").weights_hash != start.weights_hash
    assert not engine.model.training
    assert not any("forward" in vars(module) for module in engine.model.modules())
    assert engine.tokenizer.init_kwargs == start.tokenizer.init_kwargs


def test_training_is_silent_and_sends_nothing(engine, examples, tmp_path, monkeypatch, capfd):
    def fail(*args, **kwargs):
        raise AssertionError("a connection")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("socket.socket.connect", fail)
    run(engine, examples, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_dropout_is_off(engine, examples, tmp_path):
    model = copy.deepcopy(engine.model)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    noisy = TransformersEngine(model, engine.tokenizer, "noisy")
    assert run(noisy, examples, tmp_path).history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    switch_off_dropout(model)
    assert all(layer.self_attn.attention_dropout == 0 for layer in model.model.layers)


# Mistakes and divergence


class BrokenObjective:
    """Loses its loss, or its gradient, at the second update."""

    sequences = 2
    needs_reference = False

    def __init__(self, broken):
        self.broken, self.calls = broken, itertools.count()

    def __call__(self, policy, reference, lengths):
        losses = -policy[:, 0]
        if next(self.calls) == 1:
            root = (policy - policy.detach())[:, 0].sqrt()  # 0, with an infinite gradient
            losses = losses * float("nan") if self.broken == "loss" else losses + root
        return losses, {"chosen_logp": policy[:, 0].detach()}


@pytest.mark.parametrize("broken", ["loss", "gradient norm"])
def test_divergence_stops_and_saves_the_batch(engine, examples, tmp_path, broken):
    with pytest.raises(TrainingDiverged, match=f"the {broken} is not finite"):
        run(engine, examples, tmp_path, BrokenObjective(broken))
    saved = json.loads((tmp_path / "state" / DIVERGED_FILE).read_text())
    order = update_order([max(map(len, each.sequences)) for each in examples], 4, seed=0)
    assert saved["ids"] == [f"example-{index}" for index in order[4:8]]
    chosen = [examples[index] for index in order[4:8]]
    assert saved["input_ids"][0] == [
        token
        for each in chosen
        for part in (each.sequences[0].prompt_ids, *(sequence.completion_ids for sequence in each.sequences))
        for token in part
    ]
    assert not (tmp_path / "model").exists()


def test_options_that_do_not_fit(engine, examples, tmp_path):
    with pytest.raises(UserError, match="batch_size 4 is not a multiple of micro_batch_size 3"):
        run(engine, examples, tmp_path, options=TrainingOptions(batch_size=4, micro_batch_size=3))
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        TrainingOptions(lr_scheduler="cosin")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_trains(engine, examples, tmp_path, name):
    run(engine, examples[:2], tmp_path, options=TrainingOptions(batch_size=2, micro_batch_size=2, lr_scheduler=name))


def test_an_example_beyond_the_context_is_named(engine, tmp_path):
    sequence = TokenSequence((2,) * 500, (3,) * 13)
    with pytest.raises(UserError, match="training example long has 513 tokens"):
        run(engine, [Example("long", (sequence,))], tmp_path, SFTObjective())


def test_examples_must_be_of_the_objective(engine, examples, tmp_path):
    with pytest.raises(ValueError, match="example-0 has 2 sequences, and the objective reads 1"):
        run(engine, examples, tmp_path, SFTObjective())
    with pytest.raises(ValueError, match="needs log-probabilities of the reference"):
        data = build_data(examples, tmp_path / "examples.arrow", 2, 512)
        training = Training(training_arguments(OPTIONS, tmp_path, 0, on_gpu=False, bf16=False))
        train(engine, data, PreferenceObjective(), None, training, tmp_path, Ledger())


# Reference and batches


def test_reference_is_the_engine_s_and_is_charged(engine, examples, tmp_path):
    ledger, counts = Ledger(rule="nominal"), []
    data = build_data(examples, tmp_path / "examples.arrow", 2, 512)
    reference = reference_logprobs(engine, data, ledger, advance=counts.append)
    assert sum(counts) == 2 * len(examples)
    for row, example in enumerate(examples):
        for column, sequence in enumerate(example.sequences):
            alone = engine.logprobs([sequence.prompt_ids], [sequence.completion_ids])[0]
            assert reference.totals[row, column] == pytest.approx(alone.total, rel=1e-5)
            assert reference.tokens[row, column] == alone.tokens
    spent = ledger.roles["reference"]
    assert spent.calls == 2 * len(examples)
    assert spent.prompt_tokens == sum(example.tokens for example in examples)
    assert spent.flops == 2 * engine.parameters * spent.prompt_tokens


def test_reference_is_computed_once_for_weights_and_examples(engine, examples, tmp_path, monkeypatch):
    """In whatever order the examples come; what is found is charged like what is computed."""
    other = TransformersEngine(copy.deepcopy(engine.model), engine.tokenizer, "other")
    other.model.model.norm.weight.data.mul_(1.01)
    calls = []
    compute = TransformersEngine.logprobs
    monkeypatch.setattr(
        TransformersEngine, "logprobs", lambda self, *rest: calls.append(self.name) or compute(self, *rest)
    )

    def ask(engine, chosen):
        ledger = Ledger()
        data = build_data(chosen, tmp_path / "examples.arrow", 2, 512)
        return reference_logprobs(engine, data, ledger, tmp_path / "reference"), ledger.roles["reference"].flops

    first, flops = ask(engine, examples)
    again, same_flops = ask(engine, examples[::-1])
    assert calls == [engine.name]
    assert again.totals[::-1].tolist() == first.totals.tolist()
    assert same_flops == flops
    assert ask(other, examples)[0].totals.tolist() != first.totals.tolist()
    assert ask(engine, examples[1:])[0].totals == pytest.approx(first.totals[1:], rel=1e-5)
    assert calls == [engine.name, "other", engine.name]


def test_order_is_a_permutation_of_its_seed():
    lengths = [random.Random(1).randint(5, 90) for _ in range(150)]
    order = update_order(lengths, 16, seed=4)
    assert sorted(order) == list(range(150))
    assert order == update_order(lengths, 16, seed=4) != update_order(lengths, 16, seed=5)


def test_order_keeps_padding_small():
    rng = random.Random(1)
    lengths = [rng.randint(5, 90) for _ in range(1600)]

    def padding(order):
        batches = [[lengths[index] for index in order[start : start + 16]] for start in range(0, len(order), 16)]
        return sum(len(batch) * max(batch) - sum(batch) for batch in batches)

    shuffled = rng.sample(range(1600), 1600)
    assert padding(update_order(lengths, 16, seed=0)) < 0.2 * padding(shuffled)


def test_a_batch_reads_a_prompt_once(tmp_path):
    examples = [
        Example("a", (TokenSequence((1, 2), (3, 4)), TokenSequence((1, 2), (5,)))),
        Example("b", (TokenSequence((6,), (7,)), TokenSequence((6,), (8, 9, 10)))),
    ]
    data = build_data(examples, tmp_path / "examples.arrow", 2, 512)
    batch = Collator(np.array([[-1, -2], [-3, -4]]))([data.rows[1], data.rows[0]])
    packed = batch["packed"]
    assert batch["ids"] == ["b", "a"]
    assert batch["reference"].tolist() == [[-3, -4], [-1, -2]]
    assert batch["counts"].tolist() == [1, 1]
    assert packed.input_ids.tolist() == [[6, 7, 8, 9, 10, 1, 2, 3, 4, 5]]
    assert packed.position_ids.tolist() == [[0, 1, 1, 2, 3, 0, 1, 2, 3, 2]]
    assert packed.targets.tolist() == [7, 8, 9, 10, 3, 4, 5]
    assert packed.reads.tolist() == [0, 0, 2, 3, 6, 7, 6]
    assert packed.lengths.tolist() == [1, 3, 2, 1]


def test_rows_that_fill_up_a_pass_have_no_weight(tmp_path):
    examples = [Example(str(index), (TokenSequence((1,), (2,)),)) for index in range(5)]
    data = build_data(examples, tmp_path / "examples.arrow", 1, 512)
    rows = in_order(data, 4, seed=0, per_pass=4)
    assert sorted(rows["id"]) == ["", "", "", *"01234"]
    assert Collator()([rows[index] for index in range(4, 8)])["counts"].tolist() == [1, 0, 0, 0]


# A reference that follows the policy


class Interrupted(Exception):
    pass


class Interrupt(TrainerCallback):
    """Ends a training before its third update."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            raise Interrupted


def test_a_moving_reference_is_resumed_and_charged(engine, examples, tmp_path, monkeypatch):
    """The history is that of the undisturbed training, and each example is read once by the reference."""
    objective = PreferenceObjective(beta=0.5, sync=ReferenceSync(steps=1, mixup=0.6))
    ledger = Ledger()
    whole = run(engine, examples, tmp_path / "whole", objective, ledger=ledger)
    fixed = run(engine, examples, tmp_path / "fixed", PreferenceObjective(beta=0.5))
    assert column(whole, "loss")[0] == pytest.approx(column(fixed, "loss")[0], rel=1e-6)
    assert column(whole, "loss")[1:] != pytest.approx(column(fixed, "loss")[1:], rel=1e-3)
    data = build_data(examples, tmp_path / "data.arrow", 2, engine.context_length)
    assert ledger.roles["reference"].flops == ledger.cost(engine).forward(data.work)
    assert ledger.roles["reference"].prompt_tokens == ledger.roles["train"].trained_tokens == data.work.read

    monkeypatch.setattr(training_state, "SHORTEST", 0.0)
    monkeypatch.setattr(training_state, "SHARE", float("inf"))  # save after every update
    with pytest.raises(Interrupted):
        run(engine, examples, tmp_path / "cut", objective, callbacks=[Interrupt()])
    assert (tmp_path / "cut/state/checkpoint-2/reference.safetensors").exists()
    assert run(engine, examples, tmp_path / "cut", objective).history == whole.history


def test_a_moving_reference_needs_whole_models(engine, examples, tmp_path):
    objective = PreferenceObjective(sync=ReferenceSync(steps=1, mixup=0.6))
    with pytest.raises(UserError, match="a second model in this process: train without"):
        run(engine, examples, tmp_path, objective, options=replace(OPTIONS, lora_rank=2))
