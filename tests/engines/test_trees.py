"""Scoring that reads what sequences begin with once: log-probabilities are those of each sequence alone."""

import pytest
import small_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import passes, shareable, transformers, trees
from harness.engines.logprobs import attend_packed, sequence_logprobs
from harness.engines.passes import Rows
from harness.engines.reading import how_to_read
from harness.engines.shareable import why_not_shared
from harness.engines.transformers import TransformersEngine
from harness.engines.trees import Forest

SHORT = ("llama", "qwen2", "gpt2", "mistral", "gemma2", "gpt_oss", "mixtral", "gemma3n_text", "phi3", "deepseek_v3")
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


def tokens(length: int, first: int) -> tuple[int, ...]:
    return tuple(3 + (first + 37 * step) % 83 for step in range(length))


BLOCK = tokens(30, 1)
ASKED, OTHER = (*BLOCK, 4, 9, 11), (*BLOCK, 5, 7)
PAIRS = [
    *((ASKED, (letter,)) for letter in (20, 21, 22, 23)),  # alternatives
    *((OTHER, tokens(9, 5)), (OTHER, (*tokens(9, 5)[:6], 71, 72)), (OTHER, tokens(9, 5))),  # alike, and the same
    *((tokens(5, 50), tokens(3, 8)), (tokens(5, 50), tokens(7, 8))),  # one begins another
    *((BLOCK[:12], BLOCK[12:20]), ((), BLOCK[:9]), ((), (8, 9)), ((7,), (8,))),
]


def alone(model, pairs=PAIRS) -> torch.Tensor:
    """The log-probability of each by the model's own forward pass."""
    sums = []
    for prompt, completion in pairs:
        first = max(1, len(prompt))
        row = torch.tensor([[*prompt, *completion]])
        logps = model(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1)
        sums.append(logps[first - 1 : -1].gather(1, row[0, first:, None]).sum())
    return torch.stack(sums)


def in_trees(model, pairs, reading, most=10**6, least=trees.LEAST) -> torch.Tensor:
    """The same, read in passes of at most so many tokens."""
    forest, sums = Forest(pairs, least), torch.zeros(len(pairs))
    with attend_packed(model, reading):
        for batch in forest.batches(lambda: most):
            packed = forest.pack(batch)
            assert packed.tokens == forest.tokens(batch) and (packed.tokens <= most or len(batch) == 1)
            sums[batch] = sequence_logprobs(model, packed, reading)
    return sums


def check_trees(model) -> None:
    reading = how_to_read(model)
    assert why_not_shared(model, reading) == ""
    with torch.inference_mode():
        expected = alone(model)
        for most, least in ((10**6, 4), (50, 4), (1, 4), (10**6, 1)):
            torch.testing.assert_close(in_trees(model, PAIRS, reading, most, least), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model_type", SHORT)
def test_log_probabilities_are_those_of_each_sequence_alone(model_type):
    """Also with windows (6 tokens), sinks, capped scores, experts, latent attention, and layers that share keys."""
    check_trees(small_models.small_model(model_type).eval())


@pytest.mark.slow
def test_log_probabilities_of_every_architecture(subtests):
    checked = 0
    for model_type in small_models.built():
        model = small_models.small_model(model_type).eval()
        if not why_not_shared(model, how_to_read(model)):
            checked += 1
            with subtests.test(model_type):
                check_trees(model)
    assert checked > 80


def test_flex_attention():
    model = small_models.small_model("llama").eval()
    with torch.no_grad():
        found = in_trees(model, PAIRS[:7], how_to_read(model, "flex"))
        torch.testing.assert_close(found, alone(model, PAIRS[:7]), rtol=0, atol=1e-4)


branches = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=12), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(branches, branches, st.integers(1, 6), st.integers(1, 60))
def test_any_sequences(prompts, completions, least, most):
    """Of three different tokens, so that much is alike."""
    model = small_models.small_model("llama").eval()
    pairs = [(tuple(prompt), tuple(each)) for prompt in prompts for each in completions[:3]]
    with torch.inference_mode():
        found = in_trees(model, pairs, how_to_read(model), most, least)
        torch.testing.assert_close(found, alone(model, pairs), rtol=0, atol=1e-4)


def test_a_tree_by_hand():
    """Of a prompt of 6 with completions (1, 2, 3) and (1, 2, 4, 5), and one of 3 with (8,): the last tokens are not
    read, and what follows (1, 2) is asked from one place."""
    prompt, other = tokens(6, 9), tokens(3, 60)
    forest = Forest([(prompt, (1, 2, 3)), (other, (8,)), (prompt, (1, 2, 4, 5))], least=2)
    (batch,) = forest.batches(lambda: 12)
    assert batch == [2, 0, 1] and [forest.tokens(batch), forest.longest] == [12, 9]
    packed = forest.pack(batch)
    assert packed.input_ids.tolist() == [[*prompt, 1, 2, 4, *other]]
    assert packed.position_ids.tolist() == [[*range(9), *range(3)]]
    assert packed.ends.tolist() == [9] * 9 + [12] * 3
    assert packed.reads.tolist() == [5, 6, 7, 8, 11]
    assert packed.targets.tolist() == [1, 2, 4, 5, 3, 8] and packed.after.tolist() == [0, 1, 2, 3, 2, 4]
    assert packed.owners.tolist() == [0] * 4 + [1] * 3 + [2] and packed.entries.tolist() == [0, 1, 2, 3, 0, 1, 4, 5]
    assert packed.lengths.tolist() == [4, 3, 1]
    assert list(forest.batches(lambda: 11)) == [[2, 0], [1]]


def test_attention_computes_little_in_vain():
    """A tree of 300 tokens that 20 branches of 10 to 29 tokens continue."""
    block = tokens(300, 1)
    forest = Forest([((*block, 70 + place, *tokens(9 + place, place)), (5,)) for place in range(20)])
    packed = forest.pack(forest.order)
    lengths = range(10, 30)
    needed = 300 * 300 + sum(length * (300 + length) for length in lengths)
    assert packed.tokens == 300 + sum(lengths) and len(packed.groups) < 12
    assert sum(group.mask.numel() for group in packed.groups) < 1.25 * needed + len(packed.groups) * trees.SLACK


def test_a_sequence_needs_something_to_predict_from():
    for pair in (((), (5,)), ((5,), ())):
        with pytest.raises(ValueError, match="at least one completion token"):
            Forest([pair])
    assert list(Forest([]).batches(lambda: 5)) == []


def test_many_nested_sequences():
    """Each begins the next: no recursion."""
    long = tuple(range(3, 6000))
    forest = Forest([(long[:length], (1,)) for length in range(4, len(long), 8)], least=4)
    assert forest.tokens(forest.order) == forest.longest


# The engine

LETTERS = [(letter,) for letter in (20, 21, 22, 23)]
QUESTIONS = [(*BLOCK, *tokens(3 + number, number)) for number in range(11)]
ASKED_PROMPTS = [prompt for prompt in QUESTIONS for _ in LETTERS]
ASKED_LETTERS = LETTERS * len(QUESTIONS)


def by_rows(engine):
    found = TransformersEngine(engine.model, engine.tokenizer, "by rows", engine.batch_size)
    found.why_not_shared = "it is odd"
    return found


def assert_same(found, expected):
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.total for each in found] == pytest.approx([each.total for each in expected], abs=1e-4)


def test_the_engine_reads_what_prompts_share_once(tiny_model_dir):
    """30 tokens, and 3 to 13 of each question; letters are read nowhere. Less than an eighth is no reason."""
    engine, seen, advanced = TransformersEngine.load(tiny_model_dir, device="cpu"), [], []
    handle = engine.model.register_forward_pre_hook(
        lambda _model, _args, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    assert not engine.why_not_shared
    seen.clear()
    found = engine.logprobs(ASKED_PROMPTS, ASKED_LETTERS, advanced.append)
    assert seen == [30 + sum(range(3, 14))] == [engine.positions(ASKED_PROMPTS, ASKED_LETTERS)]
    handle.remove()
    assert sum(advanced) == 44
    assert_same(found, by_rows(engine).logprobs(ASKED_PROMPTS, ASKED_LETTERS))
    prompts = [tokens(20, 9), tokens(20, 9), tokens(20, 40)]
    long = [tokens(20, 1), tokens(20, 2), tokens(20, 3)]
    assert engine.positions(prompts, long) == 100 == by_rows(engine).positions(prompts, long)
    assert engine.logprobs(prompts, long) == by_rows(engine).logprobs(prompts, long)
    assert engine.logprobs([], []) == []


def test_passes_are_bounded_by_the_batch_and_by_memory(tiny_model_dir, monkeypatch, capsys):
    """Of a batch of 2, at most twice the 43 tokens of the longest; what memory does not hold is read in halves."""
    expected = TransformersEngine.load(tiny_model_dir, device="cpu").logprobs(ASKED_PROMPTS, ASKED_LETTERS)
    given, advanced = [], []
    function = sequence_logprobs

    def limited(model, packed, reading):
        given.append(packed.tokens)
        if packed.tokens > most:
            raise torch.OutOfMemoryError(FULL)
        return function(model, packed, reading)

    monkeypatch.setattr(transformers, "sequence_logprobs", limited)
    engine, most = TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=2), 1000
    assert_same(engine.logprobs(ASKED_PROMPTS, ASKED_LETTERS), expected)
    assert len(given) == 2 and max(given) <= 2 * 43
    engine, most = TransformersEngine.load(tiny_model_dir, device="cpu"), 60
    given.clear()
    assert_same(engine.logprobs(ASKED_PROMPTS, ASKED_LETTERS, advanced.append), expected)
    assert given[0] == 118 and engine.scores.size == 59 and sum(advanced) == 44
    assert "118 tokens of " in capsys.readouterr().err
    given.clear()
    engine.logprobs(ASKED_PROMPTS, ASKED_LETTERS)
    assert max(given) <= 59


@pytest.mark.parametrize(
    ("model_type", "more", "reason"),
    {
        "not packed": ("mamba", {}, "it has layers of type linear_attention"),
        "a rotary embedding of all": (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 32,
                }
            },
            "a long sequence would change the rotary embedding of the others",
        ),
    }.values(),
)
def test_which_models_are_not_read_in_trees(model_type, more, reason):
    model = small_models.small_model(model_type, **more)
    assert why_not_shared(model, how_to_read(model)) == reason


def test_a_model_whose_trees_are_wrong_is_read_in_rows_and_that_is_told_once(tiny_model_dir, monkeypatch, capsys):
    """Branches that see a token too few of what they continue."""
    shareable.tell.cache_clear()
    groups = trees._groups

    def wrong(branches, number):
        found, origin = groups(branches, number)
        for group in found:
            group.mask[..., 0] = group.mask.shape[-1] == group.places.shape[1]
        return found, origin

    monkeypatch.setattr(trees, "_groups", wrong)
    asked = []
    monkeypatch.setattr(passes, "Rows", lambda *given: asked.append(given) or Rows(*given))
    for _ in range(2):
        engine = TransformersEngine.load(tiny_model_dir, device="cpu")
        found = engine.logprobs(ASKED_PROMPTS, ASKED_LETTERS)
        assert "its log-probabilities would differ by" in engine.why_not_shared and len(asked) > 0
    assert_same(found, by_rows(engine).logprobs(ASKED_PROMPTS, ASKED_LETTERS))
    told = capsys.readouterr().err
    assert told.count("reads what different prompts share once for each of them: its log-probabilities") == 1
