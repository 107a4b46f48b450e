"""RewardBench 2: best of four, the subset Ties by its published formula, the three modes, and the controls."""

import json
import math

import pytest
from command_line import harness
from scripted_engine import STOP, ScriptedEngine

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.reward_bench_2 import RewardBench2, RewardBench2Options, tie_score
from harness.errors import UserError


def row(identifier, subset, chosen, rejected, prompt="Which?"):
    return {"id": identifier, "subset": subset, "prompt": prompt, "chosen": chosen, "rejected": rejected}


ROWS = [
    row("0", "Math", ["long enough to win"], ["a", "b", "c"]),
    row("1", "Math", ["x"], ["yy", "zz", "w"]),
    row("2", "Focus", ["same"], ["four", "a", "bc"]),
    row("ref:0", "Ties", ["red"], ["table", "chair"], "Name a colour that is red."),
    row("tied:0", "Ties", ["red", "blue", "green"], ["table", "chair"], "Name a colour."),
]


def write(folder, rows=ROWS):
    (folder / "rewardbench2").mkdir(parents=True, exist_ok=True)
    (folder / "rewardbench2" / "reward-bench-2.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


class Classifier:
    """Rewards by length of the reply, as the scripted engine's token ids are its characters."""

    name, context_length = "classifier", 10_000

    def encode_replies(self, chat, replies):
        return ScriptedEngine().encode_replies(chat, replies)

    def rewards(self, prompts, completions, advance=None):
        return [float(len(completion)) for completion in completions]


def test_the_longest_wins_as_a_classifier(tmp_path):
    """A reward that is the length scores what the control says: Math 1 and 0, Focus one of two equal ones, Ties below.

    Ties: lengths of the reference 3 | 5, 5: gap -2. Tied 3, 4, 5 | 5, 5: spread 2, gap -2. No term but the margin:
    0.01 tanh(-2/2 - 1)."""
    bench = RewardBench2()
    items = bench.load(write(tmp_path), Settings())
    assert [item["id"] for item in items] == ["0", "1", "2", "Ties/0"]
    samples = bench.answer(Policy(Classifier()), items, Settings(), None)
    score = bench.score(items, json.loads(json.dumps(samples)), [])
    ties = 0.01 * math.tanh(-2)
    assert score.details["subsets"] == pytest.approx({"Math": 50.0, "Focus": 50.0, "Ties": 100 * ties})
    assert score.value == pytest.approx((50 + 50 + 100 * ties) / 3)
    weighted = sum(score.weights[each] * value for each, value in score.values.items())
    assert weighted / sum(score.weights.values()) == pytest.approx(score.value)
    assert score.details["controls"]["the longest wins"] == pytest.approx(score.value)
    assert set(score.details["controls"]) == {"the longest wins", "the first wins"}


@pytest.mark.parametrize(
    "reference, tied, right, expected",
    [
        # spread 1, gap 4, reference gap 3: all terms, and 0.01 tanh(3 / 1 - 1)
        ([5, 2], [6, 5, 1], 2, 1.0 + 0.01 * math.tanh(2)),
        # spread 4, gap 2, reference gap 6: right, but the right ones are too far apart
        ([8, 2], [9, 5, 3], 2, 0.6 + 0.01 * math.tanh(2 / 4 - 1)),
        # spread 2, gap 3, reference gap -1: 0.3 for the tied one, 0.2 for its gap
        ([1, 2], [7, 5, 2], 2, 0.5 + 0.01 * math.tanh(-1 / 2 - 1)),
        # no spread: 3 / 0 is infinite, and 0 / 0 counts 0
        ([5, 2], [5, 5, 1], 2, 1.01),
        ([2, 2], [5, 5, 1], 2, 0.5),
    ],
)
def test_ties_by_hand(reference, tied, right, expected):
    assert tie_score(reference, tied, right) == pytest.approx(expected)


def test_ties_as_published():
    """The published formula over the subset (rewardbench, process_single_model) is the mean over pairs."""
    import numpy as np

    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=4), rng.normal(size=6)) for _ in range(40)]
    right = 3
    spread = np.array([tied[:right].max() - tied[:right].min() for _, tied in pairs])
    gap = np.array([tied[:right].min() - tied[right:].max() for _, tied in pairs])
    other = np.array([reference[0] - reference[1:].max() for reference, _ in pairs])
    least = np.minimum(gap, other)
    published = 0.3 * np.mean(gap > 0) + 0.3 * np.mean(other > 0) + 0.2 * np.mean(gap > spread)
    published += 0.2 * np.mean(least > spread) + 0.01 * np.mean(np.tanh(least / spread - 1))
    ours = [tie_score(list(reference), list(tied), right) for reference, tied in pairs]
    assert np.mean(ours) == pytest.approx(published)


def test_implicit_reward(tmp_path):
    """The scripted engine's log-probability is minus the length: with a reference of the same, all rewards are equal,
    and four equal ones count a quarter; without one the mean per token is -1 for all."""
    bench = RewardBench2()
    items = bench.load(write(tmp_path), Settings())[:3]
    for reference in (None, ScriptedEngine()):
        samples = bench.answer(Policy(ScriptedEngine(), reference, 0.1), items, Settings(), None)
        score = bench.score(items, json.loads(json.dumps(samples)), [])
        assert set(score.values.values()) == {25.0}
        assert score.details["reward"] == ("implicit reward" if reference else "mean log-probability")


def test_generative_ratings(tmp_path):
    """The model rates each response with MT-Bench's prompt; a response without a rating leaves its item unparsed."""
    (tmp_path / "mt_bench").mkdir()
    prompt = {"name": "single-v1", "system_prompt": "Judge.", "prompt_template": "{question}|{answer}|"}
    (tmp_path / "mt_bench" / "judge_prompts.jsonl").write_text(json.dumps(prompt))

    def script(chat, item):
        answer = chat.rpartition("Which?|")[2].partition("|")[0]
        return f"Rating: [[{dict(x=9, yy=9, zz=1).get(answer, 3)}]]{chr(STOP)}" if answer != "bc" else "no idea"

    bench, settings = RewardBench2(), Settings(options=RewardBench2Options(mode="generative"))
    items = bench.load(write(tmp_path), settings)[:3]
    score = bench.score(items, bench.answer(Policy(ScriptedEngine(script)), items, settings, None), [])
    assert score.values == {"0": 25.0, "1": 50.0} and (score.missing, score.unparsed) == (0, 1)


@pytest.mark.parametrize(
    "rows, said",
    [
        ([row("0", "Math", ["a", "b"], ["c"])], "has 2 chosen responses; only Ties has several"),
        ([row("tied:1", "Ties", ["a", "b"], ["c"])], "Ties has only tied:1 of the pair 1"),
        ([row("tied:1", "Ties", ["a"], ["c"])], "an id of Ties is ref:N with one chosen"),
        ([row("0", "Math", ["a"], [])], "both with one at least"),
    ],
)
def test_malformed_files(rows, said, tmp_path):
    with pytest.raises(UserError, match=said):
        RewardBench2().load(write(tmp_path, rows), Settings())


def test_the_command(tmp_path, testbed_model_dir):
    printed = harness(
        *("eval", "testbed", "--data-dir", write(tmp_path), "--benchmark", "reward-bench-2", "--name", "run"),
        cwd=tmp_path,
    )
    assert "RewardBench 2" in printed and "the longest wins" in printed
    score = json.loads((tmp_path / "results/runs/run/arms/base-seed0/scores/reward-bench-2.json").read_text())
    assert score["questions"] == 4 and score["details"]["reward"] == "mean log-probability"
