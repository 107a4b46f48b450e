"""RewardBench: sections as published, ties, weights, and rewards from log-probabilities."""

import json

import pytest
from encoding import reply_ids

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.reward_bench import (
    FREE,
    WITH_REFERENCE,
    RewardBench,
    RewardBenchOptions,
    controls,
    load_sections,
)
from harness.benchmarks.reward_bench_modes import chosen_first, reward
from harness.benchmarks.reward_bench_scores import SECTIONS, score_results, section_scores
from harness.engines.classifier import RewardModel
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.judges.verdicts import parse_choice

COUNTS = {subset: count for subsets in SECTIONS.values() for subset, count in subsets.items()}
SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}
MODELS = ("RM-R1-DeepSeek-Distilled-Qwen-32B", "RM-R1-Qwen2.5-Instruct-32B")


def sample(id, chosen, rejected, **fields):
    """A stored sample with the given mean log-probabilities (of four tokens) and no reference."""
    return {
        "id": id,
        "mode": "implicit",
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
    text = {"prompt": id, "chosen": "yes, it is", "rejected": "no"}
    return {"id": id, "subset": subset, "section": section, "count": COUNTS[subset], "sections": list(SECTIONS)} | text


def test_what_trivial_rules_score():
    """Three pairs of one subset, the chosen response is longer in one, equal in one: 50. Two others weigh the same."""
    pairs = [item(str(number), "hep-go") for number in range(3)] + [item("chat", "mt-bench-easy")]
    pairs[1]["rejected"], pairs[2]["rejected"] = "no, that is it", "no, it is!"
    assert [len(pairs[2][side]) for side in ("chosen", "rejected")] == [10, 10]
    found = controls(pairs)
    assert found["the longest wins"] == (50 + 100) / 2
    first = chosen_first([pair["id"] for pair in pairs], 0)
    in_section = 100 * sum(first[str(number)] for number in range(3)) / 3
    assert found["the first wins"] == pytest.approx((in_section + 100 * first["chat"]) / 2)


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
    scores = score_results(folder / f"{model}.each_small_section_score.json")
    assert scores["mean"] == scores["total"] == pytest.approx(published["avg_Result_each_section"], abs=1e-12)
    assert scores["micro"] == pytest.approx(published["absoluate_Result"], abs=1e-12)
    assert (scores["absent"], scores["unit"], scores["prior_sets"]) == ([], "fraction", None)
    assert {name: each["accuracy"] for name, each in scores["subsets"].items()} == accuracies
    scores = scores["sections"]
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
    for rows, name in (([free], FREE), ([implicit], WITH_REFERENCE)):
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
    with pytest.raises(UserError, match="rewardbench.jsonl:2: subset 'new' is in no section"):
        RewardBench().load(write(tmp_path, ROW, ROW | {"subset": "new"}), Settings())


def test_a_model_against_itself_always_ties(tmp_path, tiny_model_dir):
    """log pi - log pi_ref is exactly 0 for the reference itself, so that nothing is won; without it, means decide."""
    engine = TransformersEngine.load(str(tiny_model_dir))
    bench = RewardBench()
    items = bench.load(write(tmp_path, ROW, ROW | {"rejected": ROW["chosen"] + " Or more."}), Settings())
    samples = bench.answer(Policy(engine, engine, 0.1), items, Settings(), None)
    assert bench.score(items, samples, []).values == {"0": 0, "1": 0}
    free = bench.answer(Policy(engine), items, Settings(), None)
    prompt = engine.encode_chat([{"role": "user", "content": ROW["prompt"]}])
    (alone,) = engine.logprobs([prompt], [reply_ids(engine, ROW["chosen"])])
    for row in free:
        assert row["chosen_tokens"] == alone.tokens == len("It is 2.") + 1  # bytes, and the stop token
        assert row["chosen_logprob"] == pytest.approx(alone.total, abs=1e-4)
        assert row["chosen_reference_logprob"] is None


# Files that exist already


def results(tmp_path, value, name="results.json"):
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in value) if name.endswith("jsonl") else json.dumps(value)
    path.write_text(lines)
    return path


def test_totals_by_hand(tmp_path):
    """Chat 0.9, Chat Hard 0.5, Safety 0.7, Reasoning (0.6 * 984 + 1 * 164) / 1148; prior sets 0.4 at half a weight."""
    accuracies = {"alpacaeval-easy": 0.9, "llmbar-natural": 0.5, "donotanswer": 0.7, "math-prm": 0.6, "hep-go": 1.0}
    prior = {"anthropic_helpful": 0.1, "anthropic_hhh": 0.3, "shp": 0.5, "summarize": 0.7}
    reasoning = (0.6 * 984 + 164) / 1148
    found = score_results(results(tmp_path, {"model": "m", "chat_template": None, **accuracies}))
    assert found["total"] == found["mean"] == pytest.approx((2.1 + reasoning) / 4)
    assert found["micro"] is None and "hep-rust" in found["absent"]
    found = score_results(results(tmp_path, {"model": "m", "extra_results": accuracies | prior}))
    assert found["mean"] == pytest.approx((2.1 + reasoning) / 4)
    assert found["total"] == pytest.approx((2.1 + reasoning + 0.5 * 0.4) / 4.5)
    percent = score_results(results(tmp_path, {name: 100 * value for name, value in accuracies.items()}))
    assert (percent["unit"], percent["mean"]) == ("percent", pytest.approx(100 * (2.1 + reasoning) / 4))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_of_verdicts(tmp_path, name):
    rows = [{"subset": "hep-go", "correct": value} for value in (True, False, 0.5, 1)]
    rows += [{"subset": "donotanswer", "results": 1}, {"subset": "donotanswer", "results": 0}]
    found = score_results(results(tmp_path, rows, name))
    assert found["sections"] == {"Safety": 0.5, "Reasoning": 0.625} and found["mean"] == 0.5625
    assert found["subsets"]["hep-go"] == {"accuracy": 0.625, "rows": 4}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"model": "m"}, "none of RewardBench's subsets"),
        ({"hep-go": "0.9"}, "accuracy of hep-go must be a number"),
        ({"hep-go": 150}, "must lie within"),
        ([{"subset": "hep-go", "correct": 3}], "entry 1: field 'correct'"),
        ([{"subset": "hep-go"}], "entry 1: field 'correct'"),
        ([{"subset": "hep", "correct": 1}], "'hep' is not a subset"),
    ],
)
def test_bad_results(tmp_path, value, said):
    with pytest.raises(UserError, match=said):
        score_results(results(tmp_path, value))


@pytest.mark.parametrize("facts", ["[]", "{}", '{"EXAMPLE_COUNTS": {"a": "3"}, "SUBSET_MAPPING": {"S": ["a"]}}'])
def test_malformed_facts(tmp_path, facts):
    (tmp_path / "facts.json").write_text(facts)
    with pytest.raises(UserError, match="facts.json: must hold"):
        load_sections(tmp_path)


# The other modes


class Judging(TransformersEngine):
    """Answers pairs by a rule on their text; everything else is the tiny model's."""

    def generate(self, prompts, items, sampling, advance=None):
        completions = super().generate(prompts, items, type(sampling)(1), advance)
        answered = zip(items, completions, strict=True)
        return [type(each)(each.token_ids, self.rule(item), True) for item, each in answered]


def judged(tmp_path, tiny_model_dir, rule, **options):
    (tmp_path / "mt_bench").mkdir()
    template = "{question}|{answer_a}|{answer_b}"
    row = {"name": "pair-v2", "system_prompt": "s", "prompt_template": template}
    (tmp_path / "mt_bench" / "judge_prompts.jsonl").write_text(json.dumps(row))
    engine = Judging.load(str(tiny_model_dir))
    engine.rule = rule
    settings = Settings(options=RewardBenchOptions(mode="generative", **options))
    items = RewardBench().load(write(tmp_path, ROW, ROW, ROW, ROW, ROW | {"prompt": "x" * 600}), settings)
    rows = RewardBench().answer(Policy(engine), items, settings, None)
    return rows, RewardBench().score(items, rows, [])


def test_generative_mode(tmp_path, tiny_model_dir):
    """A judge that always takes the first wins where the chosen is first: exactly half of the pairs."""
    rows, score = judged(tmp_path, tiny_model_dir, lambda item: "both are fine, but [[A]]")
    first = chosen_first(["0", "1", "2", "3", "4"], 0)
    assert score.values == {number: 100.0 * first[number] for number in ("0", "1", "2", "3")}
    assert (score.questions, score.missing, score.unparsed, score.details["mode"]) == (5, 1, 0, "generative")
    assert rows[4]["too_long"]


def test_both_orders_and_verdicts_without_meaning(tmp_path, tiny_model_dir):
    _, score = judged(tmp_path, tiny_model_dir, lambda item: "[[A]]", both_orders=True)
    assert set(score.values.values()) == {50}


def test_unparsed_is_neither_zero_nor_half(tmp_path, tiny_model_dir):
    answers = {"0": "[[C]]", "1": "no idea", "2": "[[B]] or rather [[Z]]", "3": "[[C]]"}
    _, score = judged(tmp_path, tiny_model_dir, lambda item: answers[item.split("/")[1]])
    assert (score.values, score.unparsed, score.value) == ({"0": 50, "3": 50}, 2, 50)


def test_the_order_is_seeded_and_balanced():
    ids = [str(number) for number in range(1001)]
    first = chosen_first(ids, 3)
    assert sum(first.values()) in (500, 501)
    assert chosen_first(ids[::-1], 3) == first != chosen_first(ids, 4)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("[[A]]", "A"),
        ("first [[A]], no: [[B]]", "B"),
        ("[[C]]", "tie"),
        ("[[A", None),
        ("A is better", None),
        ("[[A]] then [[D]]", None),
        ("[[a]]", None),
        ("[[AB]]", None),
    ],
)
def test_parse_choice(text, choice):
    assert parse_choice(text) == choice


def test_a_mode_that_the_model_can_not_do(tmp_path, tiny_model_dir):
    engine = TransformersEngine.load(str(tiny_model_dir))
    settings = Settings(options=RewardBenchOptions(mode="classifier"))
    with pytest.raises(UserError, match="not a sequence classifier"):
        RewardBench().answer(Policy(engine), [], settings, None)
    assert hasattr(RewardModel, "rewards")
    with pytest.raises(UserError, match="did you mean 'generative'"):
        RewardBenchOptions(mode="generativ")


def test_pairs_beyond_the_context_are_missing(tmp_path, tiny_model_dir):
    engine = TransformersEngine.load(str(tiny_model_dir))
    items = RewardBench().load(write(tmp_path, ROW, ROW | {"chosen": "x" * 600}), Settings())
    rows = RewardBench().answer(Policy(engine), items, Settings(), None)
    score = RewardBench().score(items, rows, [])
    assert (score.missing, len(score.values), score.questions) == (1, 1, 2)
