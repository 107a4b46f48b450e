"""The benchmark around a reward model: trained on a method's pairs, scored on RewardBench."""

import json
from dataclasses import replace

import pytest
from encoding import reply_ids

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.reward_bench import RewardBench
from harness.benchmarks.reward_model import RewardModelBench, RewardModelBenchOptions, own_pairs
from harness.engines.classifier import RewardModel
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.folder import is_classifier
from harness.testbed.prompts import preferences
from harness.testbed.suites import write_suites
from harness.types import Prompt

PAIRS = [
    Prompt(f"pair-{index}", ({"role": "user", "content": f"{index}?"},), "yes " * (index % 3 + 1), "no" + "!" * index)
    for index in range(6)
]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu")


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    write_suites(folder)
    return folder


@pytest.fixture(scope="module")
def testbed(testbed_model_dir):
    return TransformersEngine.load(testbed_model_dir, device="cpu")


def test_training_raises_the_score_of_the_testbed(testbed, suites, tmp_path):
    """1000 pairs, of which 85 % are labelled rightly. Measured with seeds 0, 1 and 2: 62.4, 62.8 and 62.8
    (54.0, 50.5 and 50.0 with a random head). Chat Hard falls to 1-18: its chosen replies are the longer ones, and
    longer ones are the worse of the training pairs."""
    bench = RewardModelBench()
    settings = Settings(options=RewardModelBenchOptions())
    items = bench.load(suites, settings)
    scores = []
    for name, options in (
        ("untrained", RewardModelBenchOptions(learning_rate=0.0, max_pairs=16)),
        ("trained", RewardModelBenchOptions()),
    ):
        policy = Policy(testbed, pairs=preferences()[:1000], folder=tmp_path / name)
        rows = bench.answer(policy, items, replace(settings, options=options), None)
        scores.append(bench.score(items, json.loads(json.dumps(rows)), []))
    untrained, trained = scores
    for section in ("Chat", "Safety"):
        assert trained.details["sections"][section] > 85 > untrained.details["sections"][section] + 10
    assert trained.value > max(untrained.value, 50) + 4
    training = trained.details["training"]
    assert training["own_pairs"] == training["trained_pairs"] == 1000 and training["given_pairs"] == 0
    assert training["accuracy"] > 57
    assert training["flops"] == 6 * (testbed.parameters + 128) * training["trained_tokens"]
    assert is_classifier(tmp_path / "trained" / "reward-model")


@pytest.fixture(scope="module")
def items(suites):
    return RewardBench().load(suites, Settings())[:12]


def answer(engine, items, folder, **options):
    policy = Policy(engine, pairs=PAIRS, folder=folder)
    settings = Settings(options=RewardModelBenchOptions(batch_size=4, micro_batch_size=4, max_length=512, **options))
    return RewardModelBench().answer(policy, items, settings, None)


def test_rows_hold_rewards_and_how_they_came_about(engine, items, tmp_path):
    rows = answer(engine, items, tmp_path)
    assert [row["id"] for row in rows] == [item["id"] for item in items]
    model = RewardModel.load(tmp_path / "reward-model", device="cpu")
    for item, row in zip(items, rows, strict=True):
        prompt = model.encode_chat([{"role": "user", "content": item["prompt"]}])
        for side in ("chosen", "rejected"):
            expected = model.rewards([prompt], [reply_ids(model, item[side])])[0]
            assert row[f"{side}_reward"] == pytest.approx(expected, abs=1e-5)
    assert rows == answer(engine, items, tmp_path)


def test_the_score_is_rewardbenchs(engine, items, tmp_path):
    rows = answer(engine, items, tmp_path)
    for index, row in enumerate(rows):  # 9 of 12 right; a tie is not a win
        row["chosen_reward"], row["rejected_reward"] = (1.0, 0.5) if index < 9 else (0.5, 0.5)
    score = RewardModelBench().score(items, rows, [])
    assert (score.benchmark, score.value, score.questions) == ("reward-model", 75.0, 12)
    assert score.details["sections"] == {"Chat": 75.0} and score.details["training"]["trained_pairs"] == 6


def test_pairs_beyond_the_context_are_missing(engine, items, tmp_path):
    long = {**items[0], "id": "long", "rejected": "x" * 600}
    counts = []
    policy, settings = (
        Policy(engine, pairs=PAIRS, folder=tmp_path),
        Settings(options=RewardModelBenchOptions(batch_size=4)),
    )
    rows = RewardModelBench().answer(policy, [*items, long], settings, counts.append)
    assert rows[-1]["too_long"] and "chosen_reward" not in rows[-1]
    assert sum(counts) == RewardModelBench.turns * 13
    score = RewardModelBench().score([*items, long], rows, [])
    assert (score.questions, score.missing, len(score.values)) == (13, 1, 12)
    weighted = sum(score.weights[key] * value for key, value in score.values.items())
    assert weighted / sum(score.weights.values()) == pytest.approx(score.value)


def test_a_file_of_preferences_is_mixed_in(engine, items, tmp_path):
    file = tmp_path / "given.jsonl"
    rows = [{"prompt": f"Given {index}?", "chosen": "Yes.", "rejected": "No."} for index in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    mixed = answer(engine, items, tmp_path / "mixed", preferences=str(file))[0]["training"]
    assert (mixed["own_pairs"], mixed["given_pairs"], mixed["trained_pairs"]) == (6, 3, 9)
    assert mixed["given_left_out"] == 1
    given = answer(engine, items, tmp_path / "given", preferences=str(file), max_pairs=0)[0]["training"]
    assert (given["own_pairs"], given["trained_pairs"]) == (0, 3)
    assert len(RewardModelBench().pairs(None, Settings(options=RewardModelBenchOptions(preferences=str(file))))) == 3
    file.write_text(json.dumps({"prompt": "No pair?"}) + "\n")
    with pytest.raises(UserError, match="given.jsonl:1"):
        answer(engine, items, tmp_path / "bad", preferences=str(file))


def test_pairs_are_needed(engine, items, tmp_path):
    policy, settings = Policy(engine, folder=tmp_path), Settings()
    assert RewardModelBench.needs_pairs
    pairs = RewardModelBench().pairs
    assert pairs(None, settings) == pairs([], settings) == []
    assert pairs(PAIRS, settings) == PAIRS
    with pytest.raises(UserError, match="reward-model.preferences=FILE"):
        RewardModelBench().answer(policy, items, settings, None)


def test_a_sample_of_the_pairs_is_seeded():
    sample = own_pairs(PAIRS, RewardModelBenchOptions(max_pairs=3), seed=0)
    assert len({each.id for each in sample}) == 3 and sample == own_pairs(
        PAIRS, RewardModelBenchOptions(max_pairs=3), seed=0
    )
    assert own_pairs(PAIRS, RewardModelBenchOptions(max_pairs=3), seed=1) != sample
    assert own_pairs(PAIRS, RewardModelBenchOptions(max_pairs=7), seed=0) == PAIRS


def test_the_start_is_the_untrained_model(engine, items, tmp_path, monkeypatch):
    starts = []

    def trained(start, *arguments):
        starts.append(start)
        raise UserError("seen")

    monkeypatch.setattr("harness.training.reward_model.train_reward_model", trained)
    trained_policy, base = object(), engine
    for policy in (Policy(trained_policy, reference=base, pairs=PAIRS), Policy(base, pairs=PAIRS)):
        with pytest.raises(UserError, match="seen"):
            RewardModelBench().answer(policy, items, Settings(), None)
    assert starts == [base, base]
