"""A reward model as the judge: the larger reward wins, whatever the order; what it cannot do is refused by name."""

import json
import math
import shutil

import pytest
from command_line import harness
from small_classifier import save_classifier

from harness.benchmarks.alpaca_eval import AlpacaEval
from harness.benchmarks.base import Judging
from harness.endpoints.base import Comparison, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.engines.classifier import RewardModel
from harness.errors import UserError
from harness.judges.pair_accuracy import judged_accuracy, pair_request
from harness.judges.reward import RewardJudge

QUESTION = ({"role": "user", "content": "Name a fruit."},)
GOOD, BAD = "An apple.", "I will not."


class FixedRewards:
    """A reward model with known rewards; it fits 40 tokens, one per character of the reply."""

    name, weights_hash, context_length = "folders/fixed", "0123456789abcdef", 40
    rewards_of = {GOOD: 1.5, BAD: -0.5, "Same.": -0.5}

    def __init__(self):
        self.read = []

    def encode_replies(self, chat, replies):
        assert list(chat) == list(QUESTION)
        return (7,), [tuple(map(ord, reply)) for reply in replies]

    def rewards(self, prompts, completions, advance=None):
        texts = ["".join(map(chr, completion)) for completion in completions]
        self.read += texts
        return [self.rewards_of[text] for text in texts]


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    return save_classifier(tiny_model_dir, tmp_path_factory.mktemp("judge") / "rm")


def letters(first, second):
    return JudgeRequest(
        "1", QUESTION, max_tokens=1, alternatives=("m", "M"), compared=Comparison(QUESTION, first, second)
    )


def test_letters_have_the_probabilities_of_bradley_and_terry():
    right, wrong = RewardJudge(FixedRewards()).complete([letters(GOOD, BAD), letters(BAD, GOOD)])
    assert right.text == "m" and wrong.text == "M"
    assert math.exp(right.first_token["m"]) == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-12)
    assert math.exp(right.first_token["M"]) == pytest.approx(1 / (1 + math.exp(2.0)), abs=1e-12)
    assert wrong.first_token == {"m": right.first_token["M"], "M": right.first_token["m"]}
    assert right.model == "fixed@01234567" and right.fingerprint == "0123456789abcdef"
    assert right.prompt_tokens == 2 + len(GOOD) + len(BAD)


def test_verdicts_are_those_that_the_request_asks_for():
    model = FixedRewards()
    judge = RewardJudge(model)
    replies = judge.complete([pair_request("1", QUESTION, GOOD, BAD), pair_request("2", QUESTION, BAD, GOOD)])
    replies += judge.complete([pair_request("3", QUESTION, BAD, "Same.")])
    assert [reply.text for reply in replies] == ["[[A]]", "[[B]]", "[[C]]"]
    assert sorted(model.read) == sorted([GOOD, BAD, "Same."]), "each reply is read once"


def test_pair_accuracy():
    pairs = [
        (str(n), {"prompt": QUESTION, "chosen": chosen, "rejected": BAD}) for n, chosen in enumerate([GOOD, "Same."])
    ]
    found = judged_accuracy(RewardJudge(FixedRewards()), pairs)
    assert found == {"pair_accuracy": 0.75, "pairs_judged": 2, "pairs_without_verdict": 0}


def test_replies_are_kept(tmp_path):
    first = RewardJudge(FixedRewards(), JudgeLog(tmp_path)).complete([letters(GOOD, BAD)])
    model = FixedRewards()
    assert RewardJudge(model, JudgeLog(tmp_path)).complete([letters(GOOD, BAD)]) == first and not model.read
    (row,) = map(json.loads, (tmp_path / "requests.jsonl").read_text().splitlines())
    assert row["request"]["compared"]["second"] == BAD and "messages" not in row["request"]


def test_a_reply_beyond_the_context_is_an_error():
    long, fine = RewardJudge(FixedRewards()).complete([letters(GOOD, "x" * 40), letters(GOOD, BAD)])
    assert long.error == "a reply has 41 tokens with its conversation, and the context of the judge 40"
    assert fine.error is None


def test_a_rating_is_refused():
    with pytest.raises(UserError, match="compares replies and cannot rate one"):
        RewardJudge(FixedRewards()).complete([JudgeRequest("1", QUESTION)])


def test_alpaca_eval_weighs_by_the_rewards(folder):
    """By hand from the rewards: AlpacaEval's preference is 1 + the probability of the second output."""
    model = RewardModel.load(folder, device="cpu")
    prompt, replies = model.encode_replies(QUESTION, (BAD, GOOD))
    reference, output = model.rewards([prompt] * 2, replies)
    items = [{"id": "0", "instruction": QUESTION[0]["content"], "reference": BAD}]
    for both in (False, True):
        (row,) = AlpacaEval().judge(
            items, [{"id": "0", "output": GOOD}], RewardJudge(model), Judging(both_orders=both), None
        )
        assert row["preference"] == pytest.approx(1 + 1 / (1 + math.exp(reference - output)), abs=1e-6)


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data" / "alpaca_eval"
    place.mkdir(parents=True)
    rows = [{"instruction": f"Say {n}.", "output": f"{n} it is."} for n in range(3)]
    (place / "reference.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_run_judged_by_a_reward_model(data, tiny_model_dir, folder):
    options = ("--data-dir", "data", "--benchmark", "alpaca-eval", "--answer-tokens", "4")
    harness("eval", tiny_model_dir, *options, "--judge-engine", folder, "--name", "judged", cwd=data)
    stored = next((data / "results/runs/judged").rglob("judgments/alpaca-eval.jsonl"))
    rows = list(map(json.loads, stored.read_text().splitlines()))
    assert len(rows) == 3 and all(row["judge"].startswith("rm@") and 1 < row["preference"] < 2 for row in rows)


def test_what_needs_ratings_is_refused_before_anything_is_asked(data, tiny_model_dir, folder):
    told = harness(
        "eval", tiny_model_dir, "--data-dir", "data", "--benchmark", "alpaca-eval,mt-bench", "--judge-engine", folder,
        cwd=data, code=2,
    )  # fmt: skip
    assert "mt-bench need ratings" in told and "is a reward model" in told and "alpaca-eval" not in told
    told = harness("run", "--method", "online-dpo", "--judge-engine", folder, cwd=data, code=2)
    assert "mt-bench, online-dpo need ratings" in told and f"--set online-dpo.reward_model={folder}" in told


def test_audit(data, folder):
    rows = [{"question": f"Say {n}.", "answer_a": f"{n}", "answer_b": "no", "label": "AB"[n % 2]} for n in range(4)]
    (data / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    harness("judge", "audit", "--judge-engine", folder, "--labels", "pairs.jsonl", cwd=data, code=1)
    report = json.loads(next((data / "results").rglob("audit.json")).read_text())
    (found,) = report["sets"]
    assert found["judged"] == 4 and found["unparsed"] == found["failed"] == 0
    (data / "rated.jsonl").write_text(json.dumps({"question": "Why?", "answer": "So.", "rating": 5}))
    told = harness("judge", "audit", "--judge-engine", folder, "--labels", "rated.jsonl", cwd=data, code=2)
    assert "rated.jsonl holds ratings" in told and "reward model" in told


def test_rejudge_leaves_ratings_out(data, folder):
    """The testbed's run has both: its MT-Bench suite is rated, its AlpacaEval suite is compared."""
    harness("eval", "testbed", "--benchmark", "mt-bench,alpaca-eval", "--limit", "8", "--name", "kept", cwd=data)
    report = json.loads(harness("rejudge", "kept", "--judge-engine", folder, "--json", cwd=data))
    assert report["rated"] == ["mt-bench"] and [each["benchmark"] for each in report["benchmarks"]] == ["alpaca-eval"]
    shutil.rmtree(data / "results")
    harness("eval", "testbed", "--benchmark", "mt-bench", "--limit", "8", "--name", "kept", cwd=data)
    told = harness("rejudge", "kept", "--judge-engine", folder, cwd=data, code=2)
    assert "mt-bench need ratings" in told
