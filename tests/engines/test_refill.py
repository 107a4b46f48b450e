"""Generation that refills its batch: the tokens of each prompt alone, and what prompts share is read once."""

import pytest
import small_models
import torch

from harness.engines.base import Sampling
from harness.engines.cached import SlotCache, Stretch, attend_cached, plan, read
from harness.engines.generation import generate_batch
from harness.engines.logprobs import without_router_logits
from harness.engines.prefixes import LEAST, reading_order, shared_prefixes
from harness.engines.reading import how_to_read
from harness.engines.refill import Refill
from harness.engines.refillable import how_to_generate, tell
from harness.engines.sampling import item_keys
from harness.engines.transformers import TransformersEngine

SHORT = ("llama", "qwen2", "gpt2", "mistral", "gemma2", "gpt_oss", "mixtral", "gemma3n_text", "phi3")
FIXED = {
    "mamba": "it has layers of type linear_attention",
    "qwen3_next": "it has layers of type linear_attention",
    "deepseek_v3": "its layers change what the cache holds before they attend to it",
    "falcon_h1": "it has layers of type hybrid",
    "llama4_text": "it has layers of type chunked_attention",
    "bloom": "its attention cannot be replaced",
}


def tokens(length: int, first: int) -> tuple[int, ...]:
    return tuple(3 + (first + 37 * step) % 83 for step in range(length))


BLOCK = tokens(30, 1)
PROMPTS = [tokens(9, 1), BLOCK, BLOCK, BLOCK, (*BLOCK, 4, 9), (*BLOCK, 5), tokens(5, 50), tokens(22, 7), tokens(3, 60)]
LIMITS = [6, 9, 5, 8, 7, 1, 7, 3, 9]
ITEMS = [str(number) for number in range(len(PROMPTS))]


def refilled(model, reading, sampling, slots):
    """The rows that come of PROMPTS, by number."""
    done = {}
    keys = item_keys(ITEMS, sampling.seed)
    with torch.inference_mode():
        ends, finish = lambda made: made[-1] == 2, lambda row: done.update({row.number: row})
        Refill(model, reading, PROMPTS, LIMITS, keys, ends, sampling, slots, finish).run()
    return done


def check_tokens(model):
    """Each prompt has the tokens that it has alone, whatever else is generated at the time."""
    reading = how_to_read(model)
    assert how_to_generate(model, reading).reason == ""
    for sampling in (Sampling(9, temperature=1.0, seed=2), Sampling(9)):
        keys = item_keys(ITEMS, sampling.seed)
        with torch.inference_mode(), without_router_logits(model):
            alone = [
                generate_batch(model, [prompt], keys[place : place + 1], [LIMITS[place]], [2], 0, sampling)[0].token_ids
                for place, prompt in enumerate(PROMPTS)
            ]
        for slots in (1, 3, 16):
            done = refilled(model, reading, sampling, slots)
            assert [done[place].tokens for place in range(len(PROMPTS))] == alone


@pytest.mark.parametrize("model_type", SHORT)
def test_the_tokens_are_those_of_each_prompt_alone(model_type):
    """Also with windows (6 tokens here), sinks, capped scores, experts, and layers that share keys."""
    check_tokens(small_models.small_model(model_type))


@pytest.mark.slow
def test_the_tokens_of_every_architecture(subtests):
    refills = 0
    for model_type in small_models.built():
        model = small_models.small_model(model_type)
        if not how_to_generate(model, how_to_read(model)).reason:
            refills += 1
            with subtests.test(model_type):
                check_tokens(model)
    assert refills > 80


@pytest.mark.parametrize(("model_type", "reason"), FIXED.items())
def test_which_models_need_fixed_batches(model_type, reason):
    model = small_models.small_model(model_type)
    assert how_to_generate(model, how_to_read(model)).reason == reason


def test_a_cache_that_gives_other_logits_is_found(monkeypatch):
    """A cache that copies one token less than it should."""
    model = small_models.small_model("llama")
    move = SlotCache.move
    monkeypatch.setattr(SlotCache, "move", lambda self, source, target, length: move(self, source, target, length - 1))
    assert "log-probabilities would differ" in how_to_generate(model, how_to_read(model)).reason


def test_fixed_batches_are_told_once(capsys):
    tell.cache_clear()
    for _ in range(2):
        tell("OddForCausalLM", "it is odd")
    told = "OddForCausalLM generates in fixed batches, which are not refilled: it is odd; this takes longer\n"
    assert capsys.readouterr().err == told


def test_logits_differ_from_the_model_s_own_by_rounding():
    """Of a prompt that begins with states that another one left, in a slot in the middle."""
    model = small_models.small_model("llama").eval()
    reading, cache = how_to_read(model), SlotCache(3, 40)
    with torch.inference_mode(), attend_cached(model):
        read(model, cache, plan([Stretch(0, 0, BLOCK), Stretch(1, 0, BLOCK[:4])], model.device), reading)
        cache.put(2, cache.take(0, 20))
        cache.move(2, 1, 20)
        found = read(model, cache, plan([Stretch(0, 30, (7,)), Stretch(1, 20, (5, 6))], model.device), reading)
    for row, sequence in zip(found, [(*BLOCK, 7), (*BLOCK[:20], 5, 6)], strict=True):
        own = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(row, own, rtol=0, atol=2e-5)


def test_who_attends_together_by_hand():
    """With 40 keys each, four continued sequences attend together; one that reads two tokens does so alone. A slot
    between them that reads nothing is passed over."""
    entries = [Stretch(slot, 39, (9,)) for slot in (0, 1, 3, 4)] + [Stretch(5, 10, (8, 7))]
    now = plan(entries, torch.device("cpu"))
    assert now.input_ids.tolist() == [[9, 9, 9, 9, 8, 7]] and now.position_ids.tolist() == [[39, 39, 39, 39, 10, 11]]
    assert now.slots.tolist() == [0, 1, 3, 4, 5, 5] and now.reads.tolist() == [0, 1, 2, 3, 5]
    together, alone = now.parts
    assert (together.first, together.seen, together.places.tolist()) == (0, 40, [[0], [1], [0], [2], [3]])
    assert (alone.first, alone.seen, alone.places.tolist()) == (5, 12, [[4, 5]])
    assert now.origin.tolist() == [0, 1, 3, 4, 5, 6]
    assert alone.mask(None).tolist() == [[[[True] * 11 + [False], [True] * 12]]]
    assert alone.mask(3).tolist() == [[[[False] * 8 + [True] * 3 + [False], [False] * 9 + [True] * 3]]]


def test_long_and_short_sequences_attend_apart():
    """2 with 4,000 keys and 3 with 100: together they would attend to 12,000 - 300 keys in vain."""
    entries = [Stretch(slot, (3999 if slot < 2 else 99), (9,)) for slot in range(5)]
    assert [(part.first, part.seen, len(part.places)) for part in plan(entries, torch.device("cpu")).parts] == [
        (0, 4000, 2),
        (2, 100, 3),
    ]


# Shared prefixes


def test_shared_prefixes_by_hand():
    """20 tokens of three prompts, and 40 of two of these; 10 in common with another are too few."""
    block = tokens(LEAST + 4, 1)
    longer = (*block, *tokens(LEAST + 4, 50))
    prompts = [(*block, 3), (*longer, 4), block[:10] + (90, 91), (*longer, 5, 6), (7,)]
    first, second, third, fourth, fifth = shared_prefixes(prompts)
    assert (first.length, first.users, first.parent, third, fifth) == (20, 3, None, None, None)
    assert second is fourth and (second.length, second.users, second.parent) == (40, 2, first)
    assert reading_order(prompts) == [3, 1, 0, 2, 4]


def test_equal_prompts_share_all_of_it_however_short():
    equal = shared_prefixes([(3, 4)] * 3 + [BLOCK] * 2 + [(*BLOCK, 4)])
    assert [(each.length, each.users) for each in equal] == [(2, 3)] * 3 + [(30, 2)] * 2 + [(30, 3)]
    assert equal[3].parent is equal[5]


def test_order_without_shared_prefixes_is_longest_first():
    prompts = [tokens(length, 11 * length) for length in (3, 9, 5, 9)]
    assert reading_order(prompts) == [1, 3, 2, 0]
    assert reading_order([]) == [] and shared_prefixes([]) == []


@pytest.mark.parametrize("slots", [1, 2, 5, 100])
def test_what_prompts_share_is_read_once(slots):
    """By hand: the 30 tokens of BLOCK, once more its last one, for what follows it, and the 2 and 1 that two prompts
    have beyond it; then 9 + 5 + 22 + 3 tokens of others, and of each completion all but the last token."""
    model = small_models.small_model("llama")
    rows = refilled(model, how_to_read(model), Sampling(9), slots)
    read_once = 30 + 1 + 2 + 1 + 9 + 5 + 22 + 3
    assert sum(row.computed for row in rows.values()) == read_once + sum(len(row.tokens) - 1 for row in rows.values())


def test_places_are_refilled(tiny_model_dir):
    """40 prompts in 16 slots: while prompts wait, at most one slot is idle."""
    engine = TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=16)
    assert not engine.refilling.reason and engine.refilling.bytes_per_token == 256 and engine.unit == 64
    rows = []
    handle = engine.model.register_forward_pre_hook(
        lambda _model, _args, given: rows.append(len(given["packed"].reads)), with_kwargs=True
    )
    prompts = [tokens(4 + number % 5, number) for number in range(40)]
    done = engine.generate(prompts, [str(number) for number in range(40)], Sampling(40, temperature=1.0))
    handle.remove()
    assert sum(rows) == sum(len(each.token_ids) for each in done)
    full = rows.index(next(number for number in rows if number < 15))
    assert sum(rows[full:]) < 16 * 40 and min(rows[:full]) >= 15


def test_a_completion_ends_after_a_text(tiny_model_dir):
    """Its tokens are the first ones of what it would be otherwise, up to the end of the text, and it is finished."""
    engine = TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=4)
    prompts = [tokens(4 + number % 5, number) for number in range(8)]
    items = [str(number) for number in range(8)]
    whole = engine.generate(prompts, items, Sampling(40, temperature=1.0))
    stop = (whole[2].text[5:7], whole[4].text[9:11])
    ended = engine.generate(prompts, items, Sampling(40, temperature=1.0, stop=stop))
    assert len(ended[2].token_ids) < len(whole[2].token_ids) and ended[2].finished
    for each, other in zip(ended, whole, strict=True):
        assert each.token_ids == other.token_ids[: len(each.token_ids)]
        found = [other.text.find(text) for text in stop if text in other.text]
        assert found == [] or each.text == other.text[: min(found)] + each.text[min(found) :]
        assert any(text in each.text for text in stop) == bool(found)
        assert each.finished == (bool(found) or other.finished)
        if not found:
            assert each == other
