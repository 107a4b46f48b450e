"""Health of a stage by hand: accuracy of pairs by a judge in both orders, probabilities, warnings."""

import math

import numpy as np
import pytest

from harness.endpoints.base import JudgeReply
from harness.judges.pair_accuracy import judged_accuracy
from harness.stages.health import stage_health
from harness.training.examples import Example, TokenSequence
from harness.training.reference import ReferenceLogProbs

COLLECTED = {"examples": 2, "discarded": {}, "events": {}, "drawn": 2, "epochs": 0.5, "sources": {}}


class Replies:
    """Replies by request id."""

    name = "replies"

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def complete(self, requests, advance=None):
        self.asked += requests
        return [self._reply(request.id) for request in requests]

    def _reply(self, name):
        text = self.replies.get(name.replace("/", "_").replace("-", "_"), "no verdict")
        return JudgeReply(name, text, error="down" if text == "down" else None)


class Grader:
    """Grades an answer by its length."""

    def quality(self, question, answer):
        return None if question == "unknown" else len(answer)


def pair(name, chosen="good", rejected="bad", question="Why?"):
    record = {"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}
    return Example(name, (TokenSequence((1, 2), (3, 4, 5)), TokenSequence((1, 2), (3,))), record)


def records(*examples):
    return [(example.id, example.record) for example in examples]


def test_both_orders_are_asked_and_averaged():
    judge = Replies(
        **{"a_chosen_first": "[[A]]", "a_rejected_first": "[[B]]"},  # right in both orders
        **{"b_chosen_first": "[[A]]", "b_rejected_first": "[[A]]"},  # whatever is first
        **{"c_chosen_first": "I do not know", "c_rejected_first": "[[C]]"},  # a tie in one order
        **{"d_chosen_first": "down", "d_rejected_first": "[[Z]]"},  # no verdict at all
    )
    found = judged_accuracy(judge, records(*map(pair, "abcd")))
    assert found["pair_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (found["pairs_judged"], found["pairs_without_verdict"]) == (3, 1)
    shown = [request.messages[0]["content"] for request in judge.asked[:2]]
    assert [text.index("\ngood\n") < text.index("\nbad\n") for text in shown] == [True, False]


def test_no_verdict_at_all_is_no_accuracy():
    assert judged_accuracy(Replies(), records(pair("a")))["pair_accuracy"] is None
    health = stage_health([pair("a")], None, COLLECTED, Replies(), 5, [])
    assert health["pair_accuracy"] is None and not health["warnings"]


def test_only_as_many_pairs_are_asked_about_as_wanted():
    judge = Replies()
    stage_health([pair("a"), pair("b"), pair("c")], None, COLLECTED, judge, 2, [])
    assert {request.id.partition("/")[0] for request in judge.asked} == {"a", "b"}
    assert "pair_accuracy" not in stage_health([pair("a")], None, COLLECTED, judge, 0, [])


def test_a_program_grades_all_pairs():
    pairs = [pair("a"), pair("b", "b", "worse"), pair("c", "same", "else"), pair("d", question="unknown")]
    health = stage_health(pairs, None, COLLECTED, Grader(), 0, [])
    assert health["pair_accuracy"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert health["completion_tokens"] == 2  # of 3 and 1


def test_probabilities_are_of_a_token():
    reference = ReferenceLogProbs(np.array([[-3.0, -1.0], [-6.0, -0.5]]), np.array([[3, 1], [3, 1]]))
    health = stage_health([pair("a"), pair("b")], reference, COLLECTED, None, 0, [])
    assert health["chosen_probability"] == pytest.approx((math.exp(-1) + math.exp(-2)) / 2)
    assert health["rejected_probability"] == pytest.approx((math.exp(-1) + math.exp(-0.5)) / 2)


def test_warnings():
    collected = {
        "examples": 90,
        "drawn": 2,
        "epochs": 0.5,
        "sources": {},
        "discarded": {"unfinished": 3, "equal responses": 7},
        "events": {"principles not written": 51},
    }
    history = [{"loss": 1.0, "chosen_logratio": -0.2}] * 5
    judge = Replies(a_chosen_first="[[B]]", a_rejected_first="[[A]]")
    warnings = stage_health([pair("a")], None, collected, judge, 1, history)["warnings"]
    parts = ("prefers the rejected", "51 queries", "3 queries, 3%", "lost 0.20 nats")
    assert [part in text for text, part in zip(warnings, parts, strict=True)] == [True] * 4
    calm = {**collected, "examples": 98, "discarded": {"unfinished": 2}, "events": {"principles not written": 50}}
    assert not stage_health([pair("a")], None, calm, None, 0, [{"loss": 1.0, "chosen_logratio": -0.09}])["warnings"]


def test_prompts_that_are_repeated_are_seen():
    health = stage_health([pair("a")], None, COLLECTED | {"drawn": 1436, "epochs": 718}, None, 0, [])
    assert health["epochs"] == 718
    assert health["warnings"] == ["prompts were drawn 718.0 times over: give more prompts, or a smaller budget"]
    health = stage_health([pair("a")], None, COLLECTED | {"drawn": 8, "epochs": 4}, None, 0, [])
    assert (health["epochs"], health["warnings"]) == (4, [])
