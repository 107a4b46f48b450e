"""What was made before an interruption is found, and nothing else changes."""

import pytest

from harness.engines.base import LogProb, Sampling
from harness.engines.logged import LoggedEngine, LoggedTrainableEngine
from harness.engines.refillable import Refilling
from harness.engines.transformers import TransformersEngine

SAMPLING = Sampling(8, temperature=1.0, seed=3)
PROMPTS = [tuple(range(5, 7 + number % 5)) for number in range(11)]
ITEMS = [f"item-{number}" for number in range(11)]


class Interrupted(Exception):
    pass


@pytest.fixture
def engine(tiny_model_dir):
    """Of three prompts a call."""
    engine = TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=3)
    engine.refilling = Refilling("it is odd")
    return engine


def count_batches(engine, monkeypatch, stop_after=None):
    """The items of each batch that the engine itself is asked for; it stops after some."""
    asked, generate = [], engine.generate

    def counted(prompts, items, sampling, advance=None):
        if len(asked) == stop_after:
            raise Interrupted
        asked.append(list(items))
        return generate(prompts, items, sampling, advance)

    monkeypatch.setattr(engine, "generate", counted)
    return asked


def test_what_was_made_before_an_interruption_is_not_made_again(engine, tmp_path, monkeypatch):
    expected = engine.generate(PROMPTS, ITEMS, SAMPLING)
    with monkeypatch.context() as patch:
        first = count_batches(engine, patch, stop_after=2)
        with pytest.raises(Interrupted):
            LoggedEngine(engine, tmp_path / "log.jsonl").generate(PROMPTS, ITEMS, SAMPLING)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"key": "cut')
    advanced = []
    rest = count_batches(engine, monkeypatch)
    logged = LoggedEngine(engine, tmp_path / "log.jsonl")
    assert logged.generate(PROMPTS, ITEMS, SAMPLING, advanced.append) == expected
    assert sorted(item for batch in first + rest for item in batch) == sorted(ITEMS)
    assert sum(advanced) == 11
    assert LoggedEngine(engine, tmp_path / "log.jsonl").generate(PROMPTS, ITEMS, SAMPLING) == expected
    assert len(rest) == 2  # the torn line was no completion, and what came after it is whole
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("prompt", "item", "sampling", "model"),
    [
        ((9, 9), "item-0", SAMPLING, 1.0),
        (PROMPTS[0], "another", SAMPLING, 1.0),
        (PROMPTS[0], "item-0", Sampling(8, temperature=0.5, seed=3), 1.0),
        (PROMPTS[0], "item-0", Sampling(8, temperature=1.0, seed=4), 1.0),
        (PROMPTS[0], "item-0", SAMPLING, 1.1),
    ],
)
def test_nothing_else_is_taken_for_it(engine, tmp_path, monkeypatch, prompt, item, sampling, model):
    LoggedEngine(engine, tmp_path / "log.jsonl").generate(PROMPTS[:1], ITEMS[:1], SAMPLING)
    engine.model.model.norm.weight.data.mul_(model)
    if model != 1.0:
        engine = TransformersEngine(engine.model, engine.tokenizer, "other", 3)
    asked = count_batches(engine, monkeypatch)
    LoggedEngine(engine, tmp_path / "log.jsonl").generate([prompt], [item], sampling)
    assert asked == [[item]]


def test_log_probabilities_too_call_by_call(engine, tmp_path, monkeypatch):
    calls = []

    def logprobs(prompts, completions, advance=None):
        if len(calls) == 2:
            raise Interrupted
        calls.append(len(prompts))
        return [LogProb(-float(len(calls)), len(completion)) for completion in completions]  # other digits in each

    monkeypatch.setattr(engine, "logprobs", logprobs)
    asked = [(PROMPTS[:2], [(9, 9), (9,)]), (PROMPTS[1:3], [(9,), (8, 8)]), (PROMPTS[3:4], [(7,)])]
    first = LoggedEngine(engine, tmp_path / "log.jsonl")
    expected = [first.logprobs(*each) for each in asked[:2]]
    with pytest.raises(Interrupted):
        first.logprobs(*asked[2])
    calls[1:], advanced = [], []
    resumed = LoggedEngine(engine, tmp_path / "log.jsonl")
    assert [resumed.logprobs(*each, advanced.append) for each in asked[:2]] == expected
    assert resumed.logprobs(*asked[2], advanced.append) == [LogProb(-2.0, 1)]
    assert calls == [2, 1] and sum(advanced) == 4


def test_all_else_is_the_engine_s(engine, tmp_path):
    logged = LoggedTrainableEngine(engine, tmp_path / "log.jsonl")
    assert (logged.name, logged.parameters, logged.device) == (engine.name, engine.parameters, engine.device)
