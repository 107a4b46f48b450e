"""AlpacaEval: the order in which a pair is shown, one or both of them, and a reply asked for again."""

import math
import random

import pytest
from alpaca_judging import RuleJudge, items, longer, samples, shown

from harness.benchmarks.alpaca_eval import AlpacaEval
from harness.benchmarks.base import Judging, Settings


@pytest.fixture(scope="module")
def references(data_dir):
    return AlpacaEval().load(data_dir, Settings())


def test_a_pair_is_shown_in_a_seeded_balanced_order():
    """Longer outputs win wherever they stand, and the policy's stands first in about half of the prompts."""
    questions, answers = items(*["reference"] * 200), samples(*["a longer answer"] * 200)
    judge, again = RuleJudge(longer), RuleJudge(longer)
    rows = AlpacaEval().judge(questions, answers, judge, Judging(), None)
    assert rows[0]["judge"] == "rule-1"
    assert [row["preference"] for row in rows] == pytest.approx([1.9] * 200, abs=1e-4)
    first = sum(shown(request)[1] == "a longer answer" for request in judge.asked)
    assert 70 <= first <= 130  # 100 +- 4 standard deviations of a fair coin
    AlpacaEval().judge(questions, answers, again, Judging(), None)
    assert [request.messages for request in again.asked] == [request.messages for request in judge.asked]
    score = AlpacaEval().score(questions, answers, rows)
    assert score.value == pytest.approx(90, abs=0.01) and len(score.values) == 200
    assert all(request.max_tokens == 1 and request.alternatives == ("m", "M") for request in judge.asked)


def test_the_order_of_the_official_pairs(references):
    """Balanced over the 805, and a function of the instruction alone: not of the rows beside it."""
    outputs = [{"id": item["id"], "output": "an answer"} for item in references]
    judge = RuleJudge(longer)
    rows = AlpacaEval().judge(references, outputs, judge, Judging(), None)
    first = {row["id"]: row["askings"][0]["policy_first"] for row in rows}
    assert abs(sum(first.values()) - 402.5) < 4 * 805**0.5 / 2  # four standard deviations of a fair coin
    said = {shown(request)[0]: shown(request)[1] == "an answer" for request in judge.asked}
    assert first == {item["id"]: said[item["instruction"]] for item in references}
    some = random.Random(2).sample(references, 90)
    again = AlpacaEval().judge(some, [outputs[int(item["id"])] for item in some], judge, Judging(), None)
    assert all(row["askings"][0]["policy_first"] == first[row["id"]] for row in again)


def test_both_orders():
    """A judge that likes what stands first is at 50; the order is stored, and a reply in one order only counts."""
    questions, answers = items("a", "b", "c"), samples("d", "e", "c")
    judge = RuleJudge(lambda instruction, first, second: {"m": math.log(0.9), "M": math.log(0.1)})
    rows = AlpacaEval().judge(questions, answers, judge, Judging(both_orders=True), None)
    assert [row["preference"] for row in rows] == [pytest.approx(1.5)] * 3 and len(judge.asked) == 4
    for row in rows[:2]:
        one, other = row["askings"]
        assert one["policy_first"] is not other["policy_first"]
        for asking in row["askings"]:
            assert asking["preference"] == pytest.approx(1.9 if asking["policy_first"] else 1.1)
    assert [asking["policy_first"] for asking in rows[2]["askings"]] == [None, None]  # equal: nobody was asked
    assert AlpacaEval().score(questions, answers, rows).details["one_order_only"] == 0

    def rule(instruction, first, second):
        if first == "a":
            return None
        return TimeoutError("no answer") if first == "b" else {"M": -0.1}

    rows = AlpacaEval().judge(questions, answers, RuleJudge(rule), Judging(both_orders=True), None)
    score = AlpacaEval().score(questions, answers, rows)
    assert (score.details["one_order_only"], score.missing, score.unparsed, len(score.values)) == (2, 0, 0, 3)
    assert [row["preference"] for row in rows] == [1, 1, 1.5] and rows[1]["error"] is None


def test_a_reply_without_a_letter_is_asked_for_once_more():
    judge = RuleJudge(lambda *_: None)
    rows = AlpacaEval().judge(items("a"), samples("c"), judge, Judging(rejudge=True), None)
    assert rows[0]["preference"] is None and [request.repeat for request in judge.asked] == [0, 1]


def test_one_question_with_its_outputs_exchanged():
    """Two pairs of the same texts: each has its own prompt, preference and reply."""
    questions = items("long text", "short")
    questions[1]["instruction"] = questions[0]["instruction"]
    answers = samples("short", "long text")
    judge = RuleJudge(longer)
    rows = AlpacaEval().judge(questions, answers, judge, Judging(), None)
    assert [row["preference"] for row in rows] == pytest.approx([1.1, 1.9], abs=1e-4)
    assert rows[0]["askings"][0]["policy_first"] == rows[1]["askings"][0]["policy_first"]
    assert rows[0]["askings"][0]["first_token"] != rows[1]["askings"][0]["first_token"]
