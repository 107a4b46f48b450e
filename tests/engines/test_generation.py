"""What generation computes: nothing twice, and little that is not needed."""

import pytest

from harness.engines.base import Sampling
from harness.engines.generation import alike
from harness.engines.refillable import Refilling
from harness.engines.transformers import TransformersEngine
from harness.work import of_samples

SAMPLING = Sampling(24, temperature=1.0, seed=5)


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=64)


@pytest.fixture(scope="module")
def testbed(testbed_model_dir):
    return TransformersEngine.load(testbed_model_dir, device="cpu")


@pytest.fixture
def positions(request):
    """How many positions each forward pass of an engine's model computes."""

    def watch(engine):
        seen = []
        handle = engine.model.register_forward_pre_hook(
            lambda _model, _args, inputs: seen.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
        )
        request.addfinalizer(handle.remove)
        return seen

    return watch


def in_fixed_batches(engine):
    """The same model, as if it could not be refilled."""
    fixed = TransformersEngine(engine.model, engine.tokenizer, engine.name, engine.batch_size)
    fixed.refilling = Refilling("it is odd")
    return fixed


def chats(engine, words):
    return [engine.encode_chat([{"role": "user", "content": "word " * number}]) for number in words]


def test_what_was_computed_is_what_the_model_was_given(engine, positions):
    prompts = chats(engine, [9, 9, 9, 8, 7, 7, 3, 3, 1])
    items = [f"item {number}" for number in range(len(prompts))]
    fixed = in_fixed_batches(engine)
    seen = positions(engine)
    completions = fixed.generate(prompts, items, SAMPLING)
    assert sum(rows * columns for rows, columns in seen) == sum(each.computed for each in completions)
    first_rows = [rows for rows, columns in seen if columns > 1]
    assert sum(first_rows) == len(set(prompts))  # equal prompts are read once


def test_what_was_computed_with_refilling_is_what_the_model_was_given(engine, positions):
    """Nothing but tokens that are needed, and less where prompts begin alike."""
    prompts = chats(engine, [9, 9, 9, 8, 7, 7, 3, 3, 1])
    items = [f"item {number}" for number in range(len(prompts))]
    assert not engine.refilling.reason
    seen = positions(engine)
    completions = engine.generate(prompts, items, SAMPLING)
    assert sum(rows * columns for rows, columns in seen) == sum(each.computed for each in completions)
    needed = of_samples(prompts, [each.token_ids for each in completions]).positions
    assert sum(each.computed for each in completions) <= needed


@pytest.mark.parametrize("fixed", [False, True])
def test_completions_are_those_of_each_prompt_alone(engine, fixed):
    engine = in_fixed_batches(engine) if fixed else engine
    prompts = chats(engine, [9, 9, 9, 8, 7, 7, 3, 3, 1])
    items = [f"item {number}" for number in range(len(prompts))]
    together = engine.generate(prompts, items, SAMPLING)
    for prompt, item, completion in zip(prompts, items, together, strict=True):
        assert engine.generate([prompt], [item], SAMPLING) == [completion]


def test_less_than_a_tenth_is_wasted_in_fixed_batches(testbed):
    """Prompts of very different lengths, some of them asked several times, as candidates and judgments are."""
    prompts = [prompt for prompt in chats(testbed, range(1, 41)) for _ in range(3)]
    items = [f"item {number}" for number in range(len(prompts))]
    fixed = in_fixed_batches(testbed)
    for most in (8, 64):
        completions = fixed.generate(prompts, items, Sampling(most, temperature=1.0))
        needed = of_samples(prompts, [each.token_ids for each in completions]).positions
        assert needed <= sum(each.computed for each in completions) < 1.1 * needed


def test_which_prompts_share_a_batch_by_hand():
    """Up to 7 % of the prompts and a quarter of what may be sampled."""
    prompts = [(1,) * 100, (2,) * 100, (3,) * 86, (4,) * 50]
    assert alike(prompts, [4] * 4) == 3  # 14 of 289 is little, 64 of 340 is not
    assert alike(prompts, [4000] * 4) == 4
    assert alike([(1,) * 100] * 3, [4] * 3) == 3
    assert alike([(1,) * 100, (2,) * 10], [4] * 2) == 1
