"""The log of judges' requests, the counts of calls and cost, what an endpoint's reply may look like, and keys."""

import json
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from harness.endpoints import wire
from harness.endpoints.base import JudgeRequest
from harness.endpoints.client import OpenAIJudge
from harness.endpoints.limits import Limits
from harness.endpoints.log import JudgeLog
from harness.endpoints.spend import CapReached
from harness.endpoints.wire import read_answer, retry_after
from harness.errors import UserError
from harness.files.urls import public_url

REQUEST = JudgeRequest("a", ({"role": "user", "content": "text"},))


def row(key, **fields):
    return {"key": key, "reply": {"text": "said"}, "endpoint": "http://here/v1", "usd": 0.5} | fields


def test_a_log_finds_replies_of_its_own_and_of_others(tmp_path):
    folder = tmp_path / "not" / "there"
    log, other = JudgeLog(folder), JudgeLog(folder)
    assert log.find("a") is None and log.stored() == 0 and not folder.exists()
    log.append([row("a", text="ä\n\u2028"), row("b", reply=None)])
    other.append([row("c")])
    assert log.find("a")["text"] == "ä\n\u2028" and log.find("b") is None and log.find("c") == row("c")
    assert JudgeLog(folder).stored() == 2


def test_a_torn_line_is_cut_away_and_nothing_else(tmp_path):
    log = JudgeLog(tmp_path)
    log.append([row("a"), row("b")])
    whole = log.file.read_bytes()
    for torn in (b'{"key": "c"', b"x" * 200_000, json.dumps(row("c")).encode()):
        log.file.write_bytes(whole + torn)
        fresh = JudgeLog(tmp_path)
        assert fresh.stored() == 2
        fresh.append([row("d")])
        assert log.file.read_bytes() == whole + json.dumps(row("d")).encode() + b"\n"
        assert JudgeLog(tmp_path).find("d") == row("d")


def test_a_line_that_is_none_of_ours_is_the_users_error(tmp_path):
    log = JudgeLog(tmp_path)
    log.append([row("a"), row("b")])
    log.stored()
    with open(log.file, "ab") as file:
        file.write(b"[]\n")
    for reader in (log, JudgeLog(tmp_path)):
        with pytest.raises(UserError, match="requests.jsonl:3: "):
            reader.find("a")


def test_caps_count_what_is_in_flight_at_its_most(tmp_path):
    spend = JudgeLog(tmp_path).spend
    first = spend.reserve(4.0, None, 10.0, 60)
    second = spend.reserve(4.0, None, 10.0, 60)
    assert spend.reserve(4.0, None, 10.0, 60) is None  # 12 at the most, but perhaps less
    spend.settle(first, 1.0)
    third = spend.reserve(4.0, None, 10.0, 60)
    assert third and spend.read().total == 9.0
    spend.settle(second, 4.0)
    spend.settle(third, 4.0)
    with pytest.raises(CapReached, match="9.0000 USD of 10 are spent") as error:
        spend.reserve(1.1, None, 10.0, 60)
    assert error.value.option == "--judge-max-cost"
    assert spend.reserve(1.0, 4, 10.0, 60)
    with pytest.raises(CapReached, match="4 calls") as error:
        spend.reserve(0.0, 4, None, 60)
    assert error.value.option == "--judge-max-calls"


def test_a_call_that_nobody_settles_stays_at_its_most(tmp_path):
    spend = JudgeLog(tmp_path).spend
    lost = spend.reserve(3.0, None, None, seconds=0.01)
    time.sleep(0.02)
    with pytest.raises(CapReached):
        spend.reserve(3.0, None, 5.0, 60)
    spend.settle(spend.reserve(1.0, None, 5.0, 60), 1.0)
    spend.settle(lost, 0.0)  # too late
    assert (spend.read().usd, spend.read().calls, spend.read().in_flight) == (4.0, 2, {})


@pytest.mark.parametrize("left", [None, ""])
def test_counts_that_were_lost_are_counted_anew(tmp_path, left):
    log = JudgeLog(tmp_path)
    log.append([row("a"), row("b", reply=None), row("c", endpoint=None)])  # the last is an engine's: no call
    if left is not None:
        (tmp_path / "spent.json").write_text(left)
    assert (log.spend.read().calls, log.spend.read().usd) == (2, 1.0)
    with pytest.raises(CapReached):
        log.spend.reserve(0.0, 2, None, 60)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": ({"role": "user", "content": "texts"},)},
        {"messages": ({"role": "system", "content": "text"},)},
        {"messages": (*REQUEST.messages, *REQUEST.messages)},
        {"temperature": 0.1},
        {"max_tokens": 2047},
        {"alternatives": ("m", "M")},
        {"repeat": 1},
    ],
)
def test_all_that_changes_the_answer_changes_the_key(change):
    judge = OpenAIJudge("judge", "http://here/v1")
    own = judge.key(REQUEST)
    assert judge.key(replace(REQUEST, **change)) != own
    assert judge.key(replace(REQUEST, id="another")) == own
    assert OpenAIJudge("judge2", "http://here/v1").key(REQUEST) != own
    assert OpenAIJudge("judge", "http://there/v1").key(REQUEST) != own
    two, three = replace(REQUEST, alternatives=("m", "M")), replace(REQUEST, alternatives=("m", "N"))
    assert judge.key(two) != judge.key(three)


@pytest.mark.parametrize(
    ("choice", "text", "first"),
    [
        ({"message": {"content": "a"}}, "a", None),
        ({"message": {"content": "\ud83d half"}}, "? half", None),
        ({"message": {"content": "M"}, "logprobs": {"content": []}}, "M", None),
        ({"message": {"content": "M"}, "logprobs": {"content": [{"token": "M"}]}}, "M", {}),
        (
            {
                "message": {"content": "M"},
                "logprobs": {
                    "content": [
                        {"top_logprobs": [{"token": "M", "logprob": -1}, {"token": "m", "logprob": None}, None, "x"]}
                    ]
                },
            },
            "M",
            {"M": -1.0},
        ),
    ],
)
def test_a_reply_is_read_as_far_as_it_goes(choice, text, first):
    usage = {"prompt_tokens": None, "completion_tokens": 1}
    answer = read_answer(json.dumps({"choices": [choice], "model": 5, "usage": usage}))
    assert (answer.text, answer.first_token, answer.error) == (text, first, None)
    assert (answer.model, answer.fingerprint, answer.usage) == (None, None, None)


@pytest.mark.parametrize("choices", [[], None, ["x"], "x", [{"message": "x"}], [{"message": {"content": ["x"]}}]])
def test_a_reply_without_a_message_is_an_error_with_its_usage(choices):
    usage = {"prompt_tokens": 3, "completion_tokens": 0}
    answer = read_answer(json.dumps({"choices": choices, "usage": usage}))
    assert (answer.error, answer.usage) == ("the reply has no message", (3, 0))
    assert "JSON" in read_answer('{"choices": [').error and "no chat" in read_answer("[]").error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_an_endpoint_asks_to_wait(headers, seconds):
    assert retry_after(headers) == seconds


def test_an_endpoint_may_name_a_date():
    now = time.time()
    assert 58 < retry_after({"retry-after": formatdate(now + 60, usegmt=True)}) <= 60
    assert retry_after({"retry-after": formatdate(now - 60, usegmt=True)}) == 0


def test_no_credit():
    for error in ({"code": "insufficient_quota"}, {"type": "insufficient_quota", "code": None}):
        assert wire.no_credit(429, json.dumps({"error": error}))
    assert wire.no_credit(402, "")
    assert not wire.no_credit(429, '{"error": {"code": "rate_limit_exceeded"}}')
    assert not wire.no_credit(429, '{"error": "insufficient_quota", "code": ["x"]}')


def test_a_url_is_stored_without_secrets():
    assert public_url("https://host:8443/v1/") == "https://host:8443/v1"
    for wrong in ("https://me:secret@host/v1", "https://host/v1?key=secret", "me:secret@host", "https://host/#secret"):
        with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
            public_url(wrong)
        assert "secret" not in str(caught.value)
    for wrong in ("localhost:8000/v1", "ftp://host", "http://host:port/v1", ""):
        with pytest.raises(UserError, match="write it like"):
            public_url(wrong)


def test_limits_that_are_none():
    for wrong in ({"concurrent": 0}, {"per_minute": 0}, {"max_calls": -1}, {"max_cost": float("nan")}):
        with pytest.raises(UserError, match=f"limit of a judge '{next(iter(wrong))}' must be (at least|above|float)"):
            Limits(**wrong)
