"""Batches that memory does not hold are tried again in halves, with the same results."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from encoding import reply_ids

from harness.budget import Ledger
from harness.engines import generation, transformers
from harness.engines.base import Sampling
from harness.engines.classifier import RewardModel
from harness.engines.logged import LoggedEngine
from harness.engines.refill import Refill
from harness.engines.refillable import Refilling
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.training import state
from harness.training.base import Training
from harness.training.dataset import build_data
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.training.losses import PreferenceObjective
from harness.training.pairs import RewardOptions
from harness.training.reference import reference_logprobs
from harness.training.reward_model import train_reward_model
from harness.training.trainer import train, training_arguments
from harness.types import Prompt

SAMPLING = Sampling(8, temperature=1.0, seed=3)
PROMPTS = [tuple(range(5, 7 + number % 5)) for number in range(11)]
ITEMS = [f"item-{number}" for number in range(11)]
COMPLETIONS = [tuple(range(9, 12 + number % 3)) for number in range(11)]
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(autouse=True)
def batches_of_any_lengths(monkeypatch):
    monkeypatch.setattr(generation, "MOST_PADDING", float("inf"))


@pytest.fixture
def load(tiny_model_dir):
    return lambda batch_size: TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=batch_size)


@pytest.fixture
def load_fixed(load):
    """An engine as of a model whose batches cannot be refilled."""

    def loaded(batch_size):
        engine = load(batch_size)
        engine.refilling = Refilling("it is odd")
        return engine

    return loaded


def hold(monkeypatch, name, largest, size):
    """A function of the engine runs out of memory above a size. Returns the sizes it was given."""
    given, function = [], getattr(transformers, name)

    def limited(model, batch, *rest):
        given.append(size(batch))
        if given[-1] > largest:
            if len(rest) > 4:
                rest[-1](1)  # one has ended before memory did
            raise torch.OutOfMemoryError(FULL)
        return function(model, batch, *rest)

    monkeypatch.setattr(transformers, name, limited)
    return given


def test_generation_goes_on_with_half_the_batch(load_fixed, monkeypatch, capsys):
    """11 do not fit, 5 do not, 2 do: said once, and nothing larger is tried again."""
    expected = load_fixed(2).generate(PROMPTS, ITEMS, SAMPLING)
    engine, advanced = load_fixed(11), []
    given = hold(monkeypatch, "generate_batch", 3, len)
    assert engine.generate(PROMPTS, ITEMS, SAMPLING, advanced.append) == expected
    assert engine.generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert given == [11, 5, *(2, 2, 2, 2, 2, 1) * 2]
    assert sum(advanced) == 11
    told = capsys.readouterr().err
    assert (
        told.count("warning") == 1
        and "11 prompts of " in told
        and "at once: continuing with" in told
        and "--batch-size 2" in told
    )


def test_scoring_goes_on_with_half_the_batch(load, monkeypatch, capsys):
    expected = load(11).logprobs(PROMPTS, COMPLETIONS)
    engine, advanced = load(11), []
    given = hold(monkeypatch, "sequence_logprobs", 30, lambda packed: int(packed.lengths.sum()))
    found = engine.logprobs(PROMPTS, COMPLETIONS, advanced.append)
    assert [each.total for each in found] == pytest.approx([each.total for each in expected], abs=1e-5)
    assert given[0] == sum(map(len, COMPLETIONS)) > 30 >= max(given[1:]) and sum(advanced) == 11
    assert capsys.readouterr().err.count("warning") == 1


def test_one_that_does_not_fit_is_an_error(load_fixed, monkeypatch):
    engine = load_fixed(4)
    hold(monkeypatch, "generate_batch", 0, len)
    with pytest.raises(
        UserError, match=r"one sequence of .* does not fit in memory .*Tried to allocate 2.00 GiB.*--max-new-tokens"
    ):
        engine.generate(PROMPTS, ITEMS, SAMPLING)


def test_other_errors_are_not_taken_for_it(load_fixed, monkeypatch):
    def fail(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(transformers, "generate_batch", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        load_fixed(4).generate(PROMPTS, ITEMS, SAMPLING)


def test_after_an_interruption_batches_are_the_same(load_fixed, tmp_path, monkeypatch):
    """Slices of 6: the second is the last one; a fresh engine would try it whole."""
    engine, log = load_fixed(6), tmp_path / "log.jsonl"
    with monkeypatch.context() as patch:
        hold(patch, "generate_batch", 3, len)
        expected = LoggedEngine(engine, log).generate(PROMPTS, ITEMS, SAMPLING)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:6]))
    given = hold(monkeypatch, "generate_batch", 100, len)
    assert LoggedEngine(load_fixed(6), log).generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert given == [3, 2]


# With batches that are refilled


def hold_slots(monkeypatch, largest):
    """Memory ends when a completion has, if more than this number are made at once. Returns the numbers."""
    given = []

    class Limited(Refill):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            given.append(self._most)

        def _step(self):
            super()._step()
            if self._most > largest and None in self._slots:
                raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(transformers, "Refill", Limited)
    return given


def test_refilling_goes_on_with_half_the_slots(load, monkeypatch, capsys):
    """11 do not fit, 5 do not, 2 do; what ended before is not made again."""
    expected = load(2).generate(PROMPTS, ITEMS, SAMPLING)
    engine, advanced = load(11), []
    given = hold_slots(monkeypatch, 3)
    assert engine.generate(PROMPTS, ITEMS, SAMPLING, advanced.append) == expected
    assert engine.generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert given[:2] == [11, 5] and given[-1] == engine.generates.size == 2
    assert sum(advanced) == 11
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and "11 prompts of " in told and "--batch-size 2" in told


def test_one_slot_that_does_not_fit_is_an_error(load, monkeypatch):
    hold_slots(monkeypatch, 0)
    with pytest.raises(UserError, match=r"one sequence of .* does not fit in memory"):
        load(4).generate(PROMPTS, ITEMS, SAMPLING)


def test_after_an_interruption_as_many_slots_are_refilled(load, tmp_path, monkeypatch):
    """Calls of 8: the second is the last one; a fresh engine would try two slots."""
    engine, log = load(2), tmp_path / "log.jsonl"
    with monkeypatch.context() as patch:
        hold_slots(patch, 1)
        expected = LoggedEngine(engine, log).generate(PROMPTS, ITEMS, SAMPLING)
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 11
    log.write_bytes(b"".join(lines[:8]))
    given = hold_slots(monkeypatch, 1)
    assert LoggedEngine(load(2), log).generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert given == [1]


def test_the_cache_takes_half_of_the_free_memory(load, monkeypatch, capsys):
    """Of a token, 2 layers hold 2 heads with 8 values each, of keys and of values: 256 bytes. The longest prompt has 6
    tokens and 8 to come: 3,584 bytes."""
    engine = load(11)
    expected = engine.generate(PROMPTS, ITEMS, SAMPLING)
    monkeypatch.setattr(transformers, "available", lambda _device: 2 * 4 * 3584 + 100)
    assert engine.generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert engine.generates.size == 4
    assert "note: 4 prompts of " in (told := capsys.readouterr().err) and "at once, not 11: " in told
    engine.generate(PROMPTS, ITEMS, SAMPLING)
    assert not capsys.readouterr().err


# Training


def examples(engine, count=12):
    for index in range(count):
        prompt = engine.encode_chat([{"role": "user", "content": f"{index} times {'very ' * (index % 4)}what?"}])
        pair = (TokenSequence(prompt, reply_ids(engine, text)) for text in (f"yes {index}", "no, never"))
        yield Example(f"example-{index}", tuple(pair))


class Limited(PreferenceObjective):
    """Memory holds so many examples at once, from the given pass on."""

    largest, after, given = 2, 0, ()

    def __call__(self, policy, *rest):
        self.given.append(len(policy))
        if len(policy) > self.largest and len(self.given) > self.after:
            raise torch.OutOfMemoryError(FULL)
        return super().__call__(policy, *rest)


def trained(engine, folder, micro, objective, advance=None):
    options = TrainingOptions(learning_rate=1e-3, batch_size=4, micro_batch_size=micro)
    data = build_data(examples(engine), folder / "examples.arrow", 2, engine.context_length)
    reference = reference_logprobs(engine, data, Ledger())
    training = Training(training_arguments(options, folder / "state", 0, on_gpu=False, bf16=False))
    result = train(engine, data, objective, reference, training, folder / "model", Ledger(), advance)
    return result, (folder / "model" / "model.safetensors").read_bytes()


def limited(largest, after=0):
    objective = Limited(beta=0.5)
    for name, value in {"largest": largest, "after": after, "given": []}.items():
        object.__setattr__(objective, name, value)
    return objective


def test_training_goes_on_with_smaller_micro_batches(load, tmp_path, capsys):
    """The same bytes as of a training that was told the smaller size."""
    engine, objective, advanced = load(4), limited(2), []
    expected, weights = trained(engine, tmp_path / "a", 2, PreferenceObjective(beta=0.5))
    result, found = trained(engine, tmp_path / "b", 4, objective, advanced.append)
    assert objective.given == [4, *[2] * 6] and sum(advanced) == 12
    assert found == weights and result.history == expected.history and result.updates == 3
    told = capsys.readouterr().err
    assert "4 examples at once: going on with 2" in told and "micro_batch_size=2" in told


def test_training_goes_on_from_the_last_state(load, tmp_path, monkeypatch):
    """Memory is short in the third of three updates: the first two are not done again."""
    monkeypatch.setattr(state, "SHORTEST", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    engine, objective, advanced = load(4), limited(2, after=2), []
    expected, _ = trained(engine, tmp_path / "a", 4, PreferenceObjective(beta=0.5))
    result, _ = trained(engine, tmp_path / "b", 4, objective, advanced.append)
    assert objective.given == [4, 4, 4, 2, 2] and sum(advanced) == 12
    for found, wanted in zip(result.history, expected.history, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def test_one_example_that_does_not_fit_is_an_error(load, tmp_path):
    with pytest.raises(UserError, match=r"single example \(CUDA out of memory.*gradient_checkpointing.*lora_rank"):
        trained(load(4), tmp_path, 4, limited(0))


def test_reward_models_go_on_with_smaller_micro_batches(load, tmp_path, monkeypatch, capsys):
    pairs = [Prompt(f"{n}", ({"role": "user", "content": f"{n}?"},), "yes " * (n % 3 + 1), "no") for n in range(8)]
    options = RewardOptions(batch_size=4, micro_batch_size=4)
    train_reward_model(load(4), pairs, replace(options, micro_batch_size=2), tmp_path / "a", 0)
    from harness.training.reward_model import BradleyTerryTrainer

    compute = BradleyTerryTrainer.compute_loss

    def short(self, model, inputs, *rest, **options):
        if len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError(FULL)
        return compute(self, model, inputs, *rest, **options)

    monkeypatch.setattr(BradleyTerryTrainer, "compute_loss", short)
    advanced = []
    train_reward_model(load(4), pairs, options, tmp_path / "b", 0, advanced.append)
    assert "4 examples at once: going on with 2" in capsys.readouterr().err and sum(advanced) == 8
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_rewards_go_on_with_half_the_batch(load, tmp_path, monkeypatch):
    pairs = [Prompt(f"{n}", ({"role": "user", "content": f"{n}?"},), "yes", "no") for n in range(4)]
    train_reward_model(load(4), pairs, RewardOptions(batch_size=4, micro_batch_size=4), tmp_path / "rm", 0)
    model = RewardModel.load(tmp_path / "rm", device="cpu")
    expected, forward, given = model.rewards(PROMPTS, COMPLETIONS), model.model.forward, []

    def short(input_ids, **rest):
        given.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError(FULL)
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.model, "forward", short)
    assert model.rewards(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert given[:2] == [11, 5] and max(given[2:]) <= 3


# For real


REAL = """
import resource, sys
import torch
from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine

def allowed(megabytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))

torch.set_num_threads(1)
engine = TransformersEngine.load(sys.argv[1], device="cpu", batch_size=256)
prompts = [tuple(5 + (number + place * (1 + number % 7)) % 200 for place in range(480)) for number in range(256)]
items = [str(number) for number in range(256)]
small = TransformersEngine(engine.model, engine.tokenizer, "small", 8)
engine.refilling
few = small.generate(prompts[:16], items[:16], Sampling(3, temperature=1.0))
scores = small.logprobs(prompts[:16], [(9,)] * 16)
allowed(int(sys.argv[2]))
made = engine.generate(prompts, items, Sampling(3, temperature=1.0))
assert made[:16] == few, "other completions"
print("generated with", engine.generates.size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_generation_in_a_process_whose_memory_ends(tiny_model_dir):
    megabytes = "22"  # keys and values of 256 prompts take 32, those of 64 take 8
    command = [sys.executable, "-c", REAL, str(tiny_model_dir), megabytes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    size = int(done.stdout.split()[-1])
    assert 1 < size < 256
    assert f"256 prompts of {tiny_model_dir} do not fit in memory at once: continuing with {size}" in done.stderr
