"""RewardBench: sections as published, ties, weights, and rewards from log-probabilities."""

import json

import pytest

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.reward_bench import (
    FREE,
    IMPLICIT,
    SECTIONS,
    RewardBench,
    load_sections,
    reward,
    section_scores,
)
from harness.errors import UserError

COUNTS = {subset: count for subsets in SECTIONS.values() for subset, count in subsets.items()}
SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}
MODELS = ("RM-R1-DeepSeek-Distilled-Qwen-32B", "RM-R1-Qwen2.5-Instruct-32B")


def sample(id, chosen, rejected, **fields):
    """A stored sample with the given mean log-probabilities (of four tokens) and no reference."""
    return {
        "id": id,
        "beta": None,
        "chosen_logprob": 4 * chosen,
        "chosen_tokens": 4,
        "chosen_reference_logprob": None,
        "rejected_logprob": 4 * rejected,
        "rejected_tokens": 4,
        "rejected_reference_logprob": None,
    } | fields


def item(id, subset):
    section = SECTION_OF[subset]
    return {"id": id, "subset": subset, "section": section, "count": COUNTS[subset], "sections": list(SECTIONS)}


def test_sections_are_the_official_ones(data_dir):
    """Recorded from allenai/reward-bench, rewardbench/constants.py."""
    facts = json.loads((data_dir / "rewardbench" / "facts.json").read_text())
    assert facts["EXAMPLE_COUNTS"] == COUNTS
    assert facts["SUBSET_MAPPING"] == {name: list(subsets) for name, subsets in SECTIONS.items()}
    assert load_sections(data_dir / "rewardbench") == SECTIONS
    assert (
        COUNTS["math-prm"]
        == 984
        == sum(COUNTS[f"hep-{name}"] for name in ("cpp", "go", "java", "js", "python", "rust"))
    )
    assert sum(COUNTS.values()) - 984 + facts["true_math_prm_count"] == facts["true_total"] == 2985


@pytest.mark.parametrize("model", MODELS)
def test_published_scores(data_dir, model):
    """Subset accuracies and section scores as RM-R1's authors published them."""
    folder = data_dir / "rewardbench" / "published"
    subsets = json.loads((folder / f"{model}.each_small_section_score.json").read_text())
    published = json.loads((folder / f"{model}.main_score.json").read_text())
    accuracies = {subset: subsets[subset] for subset in COUNTS}
    scores = section_scores(accuracies, COUNTS, SECTION_OF)
    assert scores == pytest.approx({section: published[section] for section in SECTIONS}, abs=1e-12)
    assert sum(scores.values()) / 4 == pytest.approx(published["avg_Result_each_section"], abs=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_published_scores_from_samples(data_dir, model):
    """The same from 2,985 stored samples: math-prm has 447 rows that count as 984."""
    folder = data_dir / "rewardbench" / "published"
    subsets = json.loads((folder / f"{model}.each_small_section_score.json").read_text())
    published = json.loads((folder / f"{model}.main_score.json").read_text())
    items, samples = [], []
    for subset, count in COUNTS.items():
        rows = 447 if subset == "math-prm" else count
        wins = round(subsets[subset] * rows)
        assert wins / rows == pytest.approx(subsets[subset], abs=1e-12)
        for row in range(rows):
            items.append(item(f"{subset}/{row}", subset))
            samples.append(sample(items[-1]["id"], -1.0, -2.0 if row < wins else -0.5))
    assert len(items) == 2985
    score = RewardBench().score(items, samples, [])
    assert score.value == pytest.approx(100 * published["avg_Result_each_section"], abs=1e-9)
    assert score.details["sections"] == pytest.approx({name: 100 * published[name] for name in SECTIONS}, abs=1e-9)
    assert score.details["sections_absent"] == []
    weighted = sum(score.values[id] * score.weights[id] for id in score.values) / sum(score.weights.values())
    assert weighted == pytest.approx(score.value, abs=1e-9)


def test_math_prm_counts_984():
    """By hand: (0 * 984 + 100 * 164) / 1148."""
    assert section_scores({"math-prm": 0, "hep-go": 100}, COUNTS, SECTION_OF) == {
        "Reasoning": pytest.approx(16400 / 1148)
    }


def test_ties_lose():
    items = [item("win", "hep-go"), item("tie", "hep-go"), item("loss", "hep-go"), item("other", "donotanswer")]
    samples = [sample("win", -1, -2), sample("tie", -1, -1), sample("loss", -2, -1), sample("other", -1, -2)]
    score = RewardBench().score(items, samples, [])
    assert score.values == {"win": 100, "tie": 0, "loss": 0, "other": 100}
    assert score.details["sections"] == pytest.approx({"Reasoning": 100 / 3, "Safety": 100})
    assert score.value == pytest.approx((100 / 3 + 100) / 2)
    assert score.details["sections_absent"] == ["Chat", "Chat Hard"]
    weighted = sum(score.values[id] * score.weights[id] for id in score.values) / sum(score.weights.values())
    assert weighted == pytest.approx(score.value)


def test_rewards():
    """By hand: a mean of -10 / 5 without a reference; 0.1 * (-10 - -12) with one, whatever the length."""
    free = sample("a", 0, 0, chosen_logprob=-10.0, chosen_tokens=5)
    assert reward(free, "chosen") == -2
    implicit = free | {"beta": 0.1, "chosen_reference_logprob": -12.0, "rejected_reference_logprob": 0.0}
    assert reward(implicit, "chosen") == pytest.approx(0.2)
    for rows, name in (([free], FREE), ([implicit], IMPLICIT)):
        score = RewardBench().score([item("a", "hep-go")], rows, [])
        assert score.details["reward"] == name
        assert ("note" in score.details) == (name == FREE)


def test_rebuilt_rows(data_dir):
    items = RewardBench().load(data_dir, Settings())
    assert len(items) == 1403
    found = {subset: sum(item["subset"] == subset for item in items) for subset in COUNTS}
    assert all(count in (0, COUNTS[subset]) for subset, count in found.items())
    assert {item["section"] for item in items} == {"Chat Hard", "Reasoning"}


def write(folder, *rows):
    (folder / "rewardbench").mkdir()
    (folder / "rewardbench" / "rewardbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ROW = {"prompt": "What is 1 + 1?", "chosen": "It is 2.", "rejected": "It is 3.", "subset": "hep-go"}


def test_unknown_subset(tmp_path):
    with pytest.raises(UserError, match="rewardbench.jsonl: subsets new are in no section"):
        RewardBench().load(write(tmp_path, ROW, ROW | {"subset": "new"}), Settings())


def test_a_model_against_itself_always_ties(tmp_path, tiny_model_dir):
    """log pi - log pi_ref is exactly 0 for the reference itself, so that nothing is won; without it, means decide."""
    from harness.engines.transformers import TransformersEngine

    engine = TransformersEngine.load(str(tiny_model_dir))
    bench = RewardBench()
    items = bench.load(write(tmp_path, ROW, ROW | {"rejected": ROW["chosen"] + " Or more."}), Settings())
    samples = bench.answer(Policy(engine, engine, 0.1), items, Settings(), None)
    assert bench.score(items, samples, []).values == {"0": 0, "1": 0}
    free = bench.answer(Policy(engine), items, Settings(), None)
    prompt = engine.encode_chat([{"role": "user", "content": ROW["prompt"]}])
    (alone,) = engine.logprobs([prompt], [engine.encode_completion(ROW["chosen"])])
    for row in free:
        assert row["chosen_tokens"] == alone.tokens == len("It is 2.") + 1  # bytes, and the stop token
        assert row["chosen_logprob"] == pytest.approx(alone.total, abs=1e-4)
        assert row["chosen_reference_logprob"] is None
