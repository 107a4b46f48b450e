"""The judge behind an endpoint, over real HTTP on loopback: replies, retries, errors, and the key's secrecy."""

import json
import socket
import threading
from dataclasses import asdict
from http.server import ThreadingHTTPServer

import pytest
from openai_endpoint import KEY, completion, endpoint, requests

from harness.endpoints.client import KEY_VARIABLE, LONGEST_ERROR, OpenAIJudge
from harness.endpoints.limits import Limits
from harness.errors import UserError

pytestmark = pytest.mark.usefixtures("judge_key")


def test_a_normal_reply():
    with endpoint(lambda body, number: (200, {}, completion())) as (url, seen):
        (reply,) = OpenAIJudge("judge", url).complete(requests(max_tokens=77))
    assert (reply.id, reply.text, reply.error) == ("r0", "Rating: [[7]]", None)
    assert (reply.model, reply.fingerprint) == ("judge-2024-04-09", "fp_44")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 3)
    assert reply.first_token is None and reply.date.endswith("+00:00")
    (asked,) = seen
    assert asked["path"] == "/v1/chat/completions" and asked["model"] == "judge"
    assert asked["messages"] == [{"role": "user", "content": "text 0"}]
    assert (asked["temperature"], asked["max_tokens"]) == (0, 77)
    assert "logprobs" not in asked and "top_logprobs" not in asked
    assert asked["authorization"] == f"Bearer {KEY}"


def test_log_probabilities():
    top = [{"token": "M", "logprob": -0.1, "bytes": None}, {"token": "m", "logprob": -2.4, "bytes": None}]
    content = [{"token": "M", "logprob": -0.1, "bytes": None, "top_logprobs": top}]
    reply = completion("M", choice={"logprobs": {"content": content, "refusal": None}})
    with endpoint(lambda body, number: (200, {}, reply)) as (url, seen):
        (reply,) = OpenAIJudge("judge", url).complete(requests(alternatives=("m", "M"), max_tokens=1, temperature=1.0))
    assert reply.first_token == {"M": -0.1, "m": -2.4}
    assert seen[0]["logprobs"] is True and seen[0]["top_logprobs"] == 5 and seen[0]["temperature"] == 1


def test_many_replies_stay_in_order_and_are_counted():
    counted = []
    with endpoint(lambda body, number: (200, {}, completion(body["messages"][0]["content"]))) as (url, seen):
        replies = OpenAIJudge("judge", url, limits=Limits(3)).complete(requests(20), counted.append)
    assert [reply.text for reply in replies] == [f"text {index}" for index in range(20)]
    assert sum(counted) == 20 == len(seen)


def test_never_more_at_once_than_asked_for():
    now, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def answer(body, number):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait(timeout=10)  # two must be there at once, or this fails
        with lock:
            now -= 1
        return 200, {}, completion()

    with endpoint(answer) as (url, _):
        replies = OpenAIJudge("judge", url, limits=Limits(2), retries=0).complete(requests(8))
    assert most == 2 and not any(reply.error for reply in replies)


@pytest.mark.parametrize(
    "first", [(429, {"Retry-After": "0.1"}, {"error": {"message": "slow down"}}), (500, {}, b"oops"), (503, {}, b"")]
)
def test_a_passing_failure_is_retried(first):
    with endpoint(lambda body, number: first if number == 1 else (200, {}, completion())) as (url, seen):
        (reply,) = OpenAIJudge("judge", url, retries=1).complete(requests())
    assert reply.text == "Rating: [[7]]" and reply.error is None and len(seen) == 2


def test_a_lasting_failure_is_a_reply_with_an_error():
    """Of two requests the one that fails is missing; the other has its answer. Asked 1 + 1 retry + 1 times."""

    def answer(body, number):
        good = body["messages"][0]["content"] == "text 1"
        return (200, {}, completion()) if good else (500, {}, {"error": {"message": "out of memory"}})

    with endpoint(answer) as (url, seen):
        bad, good = OpenAIJudge("judge", url, retries=1).complete(requests(2))
    assert bad.id == "r0" and bad.text == "" and "InternalServerError" in bad.error and "out of memory" in bad.error
    assert good.error is None and good.text == "Rating: [[7]]"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"choices": []}, "no message"),
        ({"choices": None}, "no message"),
        ({"choices": [{"index": 0, "message": None}]}, "no message"),
        (b'{"choices": [', "JSON"),
    ],
)
def test_a_broken_body_is_a_reply_with_an_error(body, error):
    with endpoint(lambda request, number: (200, {}, body)) as (url, _):
        (reply,) = OpenAIJudge("judge", url, retries=0).complete(requests())
    assert error in reply.error and reply.text == ""


def test_a_sparse_reply_is_enough():
    """Some servers leave out usage, fingerprint and model, or have no alternatives of a token."""
    content = [{"token": "m", "logprob": 0.0, "top_logprobs": None}]
    body = {"choices": [{"message": {"content": None}, "logprobs": {"content": content}}]}
    with endpoint(lambda request, number: (200, {}, body)) as (url, _):
        (reply,) = OpenAIJudge("judge", url).complete(requests(alternatives=("m", "M")))
    assert (reply.text, reply.error, reply.model, reply.fingerprint) == ("", None, "judge", None)
    assert reply.first_token == {} and (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key in OPENAI_API_KEY"), (403, "refuses the key"), (404, "has no model 'judge'")],
)
def test_a_refusal_is_the_users_error(status, message):
    """It comes out by itself, not in the group of a task group, so that the command line can show it."""
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    with (
        endpoint(lambda body, number: (status, {}, echo)) as (url, _),
        pytest.raises(UserError, match=message) as error,
    ):
        OpenAIJudge("judge", url).complete(requests(5))
    assert url in str(error.value) and KEY not in str(error.value)


def refuse(status):
    return lambda: (status, {}, {"error": {"message": "not this one"}})


def hang_up():
    raise ConnectionAbortedError


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (hang_up, "APIConnectionError"),
        (refuse(403), "PermissionDeniedError"),
        (refuse(404), "NotFoundError"),
        (lambda: (200, {"Content-Type": "text/html"}, b"<html>busy</html>"), "the reply is not a chat completion"),
    ],
)
def test_once_answered_a_refused_request_fails_alone(fail, error, monkeypatch):
    """A judge may filter one text or drop one connection: that loses no other judgment."""
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
    with endpoint(
        lambda body, number: fail() if body["messages"][0]["content"] == "text 3" else (200, {}, completion())
    ) as (url, _):
        replies = OpenAIJudge("judge", url, limits=Limits(1), retries=0).complete(requests(6))
    assert [bool(reply.error) for reply in replies] == [False, False, False, True, False, False]
    assert replies[3].error.startswith(error)


def test_no_server_is_the_users_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="cannot be reached") as error:
        OpenAIJudge("judge", url, retries=0).complete(requests(3))
    assert url in str(error.value)


def test_a_web_page_is_the_users_error():
    page = (200, {"Content-Type": "text/html"}, b"<html>hello</html>")
    with (
        endpoint(lambda body, number: page) as (url, _),
        pytest.raises(UserError, match="is not an OpenAI-compatible endpoint: is /v1 missing"),
    ):
        OpenAIJudge("judge", url).complete(requests())


def test_the_key_is_in_no_reply():
    def answer(body, number):
        return (200, {}, completion()) if number == 1 else (400, {}, {"error": {"message": f"bad {KEY} " + "x" * 9999}})

    with endpoint(answer) as (url, seen):
        judge = OpenAIJudge("judge", url, limits=Limits(1), retries=0)
        replies = judge.complete(requests(2))
    assert all(KEY in request["authorization"] for request in seen)
    assert KEY not in json.dumps([asdict(reply) for reply in replies])
    assert replies[1].error.startswith("BadRequestError") and len(replies[1].error) == LONGEST_ERROR


def test_a_key_is_needed_for_the_default_endpoint_only(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(UserError, match=KEY_VARIABLE):
        OpenAIJudge("judge")
    with endpoint(lambda body, number: (200, {}, completion())) as (url, _):
        (reply,) = OpenAIJudge("judge", url).complete(requests())
    assert reply.text


def test_nothing_to_ask():
    assert OpenAIJudge("judge", "http://127.0.0.1:9/v1").complete([]) == []
