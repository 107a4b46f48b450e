"""The recipe of the testbed's model, and the model that is shipped."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from harness.testbed import build as recipe
from harness.testbed.measure import compare, measure_model

TINY = recipe.Recipe(steps=10, hidden=32, feed_forward=64, layers=2)
CHAT = [
    {"role": "system", "content": "Be accurate."},
    {"role": "user", "content": "What is 17+25?"},
    {"role": "assistant", "content": "42"},
]


@pytest.fixture(scope="module")
def small_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "EXAMPLES_PER_DRAW", 150)
        yield


@pytest.fixture(scope="module")
def built(small_draws, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    recipe.build(folder, TINY, measure=False)
    return folder


def test_the_same_recipe_gives_the_same_bytes_on_any_number_of_threads(built, small_draws, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(1234)
    try:
        recipe.build(tmp_path, TINY, measure=False)
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (built / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert compare(tmp_path, built) == f"the same bytes as {built}"


def test_another_seed_gives_other_weights(built, small_draws, tmp_path):
    facts = recipe.build(tmp_path, replace(TINY, seed=1), measure=False)
    assert facts["recipe"]["seed"] == 1
    assert json.loads((tmp_path / "testbed.json").read_text()) == facts
    assert compare(tmp_path, built).startswith("weights differ")


def test_comparing_states_the_largest_difference_of_weights(built, tmp_path):
    from safetensors.torch import save_file

    weights = load_file(built / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].clone()
    weights["model.norm.weight"][3] += 0.5
    gap = (
        (weights["model.norm.weight"].float() - load_file(built / "model.safetensors")["model.norm.weight"]).abs().max()
    )
    save_file(weights, tmp_path / "model.safetensors")
    assert compare(tmp_path, built) == f"weights differ from {built} by at most {float(gap):.3g}"
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    assert compare(tmp_path, built) == f"another architecture than {built}"


def test_training_lowers_the_loss(small_draws, tmp_path):
    losses = recipe.build(tmp_path, replace(TINY, steps=80, dense_until=1.0), measure=False)["losses"]
    assert len(losses) == 20
    assert losses[0] == pytest.approx(6.6, abs=0.3)  # ln 768 = 6.64: every token equally likely
    assert losses[-1] < losses[0] - 2


@pytest.fixture(scope="module", params=["built", "shipped"])
def folder(request):
    return request.getfixturevalue("built" if request.param == "built" else "testbed_model_dir")


def test_the_template_writes_every_special_token_once(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token is None
    expected = "<|system|>Be accurate.<|end|><|user|>What is 17+25?<|end|><|assistant|>42<|end|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == expected
    ids = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert ids == tokenizer(expected)["input_ids"]  # nothing is added to what the template writes
    asked = tokenizer.apply_chat_template(CHAT[:2], tokenize=True, return_dict=False, add_generation_prompt=True)
    assert ids[: len(asked)] == asked
    assert [tokenizer.decode([token]) for token in ids].count("<|end|>") == 3
    assert ids[-1] == tokenizer.eos_token_id


def test_digits_are_single_tokens_and_text_survives(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("12345", add_special_tokens=False)["input_ids"]) == 5
    for text in ("The answer is \\boxed{42}.", "Größe — 数 \n\t x", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_files_say_how_generation_stops(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert settings.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|pad|>")
    assert len(tokenizer) == 768
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights  # tied to the embedding


def test_training_examples_are_what_the_template_writes(built):
    tokenizer = AutoTokenizer.from_pretrained(built)
    turns = [recipe.corpus.Turn(each["role"], each["content"], each["role"] == "assistant") for each in CHAT]
    ids, learned = recipe._encode(iter(turns), tokenizer)
    assert ids == tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    kept = [token for token, is_learned in zip(ids, learned, strict=True) if is_learned]
    assert tokenizer.decode(kept) == "42<|end|>"


def test_the_shipped_model_is_small_and_of_this_recipe(testbed_model_dir):
    facts = json.loads((testbed_model_dir / "testbed.json").read_text())
    assert facts["recipe"] == vars(recipe.Recipe())
    assert sum(path.stat().st_size for path in testbed_model_dir.iterdir()) < 2_000_000
    assert sum(tensor.numel() for tensor in load_file(testbed_model_dir / "model.safetensors").values()) < 900_000


def test_the_shipped_model_does_what_its_file_says(testbed_model_dir):
    """Measured anew on other questions; a tolerance is 3 to 4 standard errors of a difference."""
    stated = json.loads((testbed_model_dir / "testbed.json").read_text())
    anew = measure_model(testbed_model_dir, questions=150, seed=7)
    for name, (low, high, tolerance) in {
        "steering_gap": (20, 70, 20),
        "rubric_sampled": (30, 75, 15),
        "exact_match_sampled": (20, 60, 18),
        "exact_match_greedy": (35, 85, 18),
        "judge_pair_accuracy": (60, 85, 13),
    }.items():
        assert low < stated["measured"][name] < high, name
        assert anew["measured"][name] == pytest.approx(stated["measured"][name], abs=tolerance), name
    assert stated["measured"]["finished"] > 98
    for name, tokens in stated["lengths"].items():
        assert anew["lengths"][name] == pytest.approx(tokens, rel=0.15), name
    measured = anew["measured"]
    assert measured["rubric_bad_principles"] < measured["rubric_sampled"] < measured["rubric_good_principles"]
    assert measured["steering_gap"] == pytest.approx(
        measured["rubric_good_principles"] - measured["rubric_bad_principles"]
    )
