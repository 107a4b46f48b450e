"""Judges' servers that say odd things, and what other processes leave behind: no judgment, reply or cap is lost."""

import gzip
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from openai_endpoint import KEY, completion, endpoint, requests

from harness.endpoints.base import JudgeRequest
from harness.endpoints.client import LONGEST_BODY, OpenAIJudge
from harness.endpoints.limits import Limits, Price
from harness.endpoints.log import LINES, JudgeLog
from harness.errors import UserError
from harness.files import store

pytestmark = pytest.mark.usefixtures("judge_key")

DOLLARS = Price(1e6, 1e6)  # a dollar a token


def rows(folder):
    return store.read_jsonl(folder / LINES)


TOP = [None, "x", {"token": "m"}, {"token": "M", "logprob": -1.5}]


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (completion() | {"choices": ["x"]}, "the reply has no message", ""),
        (completion() | {"choices": [{"message": {"content": [{"text": "hi"}]}}]}, "the reply has no message", ""),
        (completion() | {"usage": {"prompt_tokens": None, "completion_tokens": None}}, None, "Rating: [[7]]"),
        (completion() | {"usage": [1]}, None, "Rating: [[7]]"),
        (completion() | {"model": 5, "system_fingerprint": []}, None, "Rating: [[7]]"),
        (completion("M", choice={"logprobs": {"content": [{"top_logprobs": TOP}]}}), None, "M"),
        (completion("\ud83d [[7]]"), None, "? [[7]]"),
    ],
)
def test_an_odd_reply_is_read_or_missing(tmp_path, body, error, text):
    with endpoint(lambda *_: (200, {}, body)) as (url, _):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), price=Price(1, 1), retries=0)
        (reply,) = judge.complete(requests(1, alternatives=("m", "M")))
    assert (reply.error, reply.text) == (error, text)
    assert reply.first_token in (None, {"M": -1.5})
    assert len(rows(tmp_path)) == 1


def test_half_a_surrogate_pair_in_a_question(tmp_path):
    with endpoint(lambda *_: (200, {}, completion())) as (url, seen):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path))
        (reply,) = judge.complete([JudgeRequest("a", ({"role": "user", "content": "cut \ud83d"},))])
    assert reply.text and seen[0]["messages"][0]["content"] == "cut ?"


def test_secrets_are_in_no_file(tmp_path):
    """A server may repeat the key in a reply or an error, also where the error's body is cut."""

    def answer(body, number):
        cut = "x" * (LONGEST_BODY - len('{"error": "') - len(KEY) // 2)
        return (500, {}, {"error": f"{cut}{KEY}"}) if number == 1 else (200, {}, completion(f"{KEY} [[7]]"))

    with endpoint(answer) as (url, _):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), first_wait=0.01)
        (reply,) = judge.complete(requests())
    assert reply.text == "(key) [[7]]" and len(rows(tmp_path)) == 2
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY[: len(KEY) // 2] not in written


def test_a_url_that_is_none():
    with pytest.raises(UserError, match="write it like http://localhost:8000/v1"):
        OpenAIJudge("judge", "localhost:8000/v1")


@pytest.mark.parametrize("error", [{"code": "insufficient_quota"}, {"code": None, "type": "insufficient_quota"}])
def test_what_is_in_flight_is_stored_before_an_empty_account_ends_the_run(tmp_path, error):
    """Four at once: the second finds the account empty while three others wait for replies that are paid for."""

    def answer(body, number):
        if body["messages"][0]["content"] != "text 1":
            time.sleep(0.4)
            return 200, {}, completion()
        time.sleep(0.1)
        return 429, {}, {"error": error}

    with endpoint(answer) as (url, seen):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=Limits(4))
        with pytest.raises(UserError, match="no credit left; 3 replies are stored"):
            judge.complete(requests(8))
    assert len(seen) == 4 == len(rows(tmp_path))


def test_an_endpoint_that_asks_for_an_hour_ends_the_run(tmp_path):
    with endpoint(lambda *_: (429, {"Retry-After": "3600"}, {})) as (url, seen):
        with pytest.raises(UserError, match="is rate-limiting: retry after 3600 s"):
            OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=Limits(1)).complete(requests(3))
    assert len(seen) == 1


@contextmanager
def trickling():
    """A server that sends a byte every 0.1 s."""

    def serve():
        while True:
            try:
                client, _ = listener.accept()
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n")
                for _ in range(60):
                    client.sendall(b" ")
                    time.sleep(0.1)
            except ConnectionError:  # the client hung up, as it should
                pass
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_a_time_out_is_for_the_whole_reply(tmp_path):
    with trickling() as url:
        start = time.monotonic()
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), timeout=0.5, retries=0)
        (reply,) = judge.complete(requests())
        assert time.monotonic() - start < 3
    assert reply.error == "APITimeoutError: no reply within 0.5 s"


@pytest.mark.parametrize(
    ("status", "body", "usd"),
    [
        (200, completion(), 14),  # as the server says
        (200, completion() | {"choices": []}, 14),
        (200, completion() | {"usage": None}, 6 + 16 + 5),  # bytes of "text 0", a message's margin, max_tokens
        (200, b'{"choices": [', 6 + 16 + 5),
        (429, {}, 0),
        (500, {}, 0),
    ],
)
def test_what_an_attempt_is_charged(tmp_path, status, body, usd):
    with endpoint(lambda *_: (status, {}, body)) as (url, _):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), price=DOLLARS, retries=0)
        judge.complete(requests(1, max_tokens=5))
    assert rows(tmp_path)[0]["usd"] == usd == JudgeLog(tmp_path).spent().usd


def test_room_under_the_cap_that_another_process_gives_back_is_waited_for(tmp_path):
    other = JudgeLog(tmp_path).spend
    reservation = other.reserve(400.0, None, 500.0, seconds=60)
    with endpoint(lambda *_: (200, {}, completion())) as (url, _):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=Limits(max_cost=500.0), price=DOLLARS)
        timer = threading.Timer(0.3, lambda: other.settle(reservation, 2.0))
        timer.start()
        (reply,) = judge.complete(requests(1, max_tokens=100))
        timer.join()
    assert reply.text and other.read().usd == 2 + 14


def test_a_reservation_of_a_killed_process_stays_charged_and_blocks_nobody_for_ever(tmp_path):
    JudgeLog(tmp_path).spend.reserve(390.0, None, 400.0, seconds=0.3)
    with endpoint(lambda *_: (200, {}, completion())) as (url, seen):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=Limits(max_cost=400.0), price=DOLLARS)
        with pytest.raises(UserError, match="390.0000 USD of 400 are spent"):
            judge.complete(requests())
    assert not seen


def test_a_line_torn_by_another_process_costs_no_reply(tmp_path):
    with endpoint(lambda *_: (200, {}, completion())) as (url, seen):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path))
        judge.complete(requests(1))
        with open(tmp_path / LINES, "ab") as file:
            file.write(b'{"key": "torn')
        judge.complete(requests(3))
        OpenAIJudge("judge", url, log=JudgeLog(tmp_path)).complete(requests(3))
    assert len(seen) == 3


@pytest.mark.parametrize("left", [None, ""])
def test_a_cap_holds_without_the_file_of_counts(tmp_path, left):
    """It is deleted, or empty after a kill or a power failure: the log has the counts too."""
    with endpoint(lambda *_: (200, {}, completion())) as (url, seen):
        limits = Limits(1, max_calls=3)
        OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=limits).complete(requests(3))
        (tmp_path / "spent.json").unlink()
        if left is not None:
            (tmp_path / "spent.json").write_text(left)
        with pytest.raises(UserError, match="3 calls of 3"):
            OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=limits).complete(requests(4))
    assert len(seen) == 3


def test_the_rate_holds_over_several_calls(tmp_path):
    """1,200 a minute are one in 0.05 s, also where each call has one request."""
    with endpoint(lambda *_: (200, {}, completion())) as (url, _):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), limits=Limits(per_minute=1200))
        start = time.monotonic()
        for request in requests(7):
            judge.complete([request])
        assert time.monotonic() - start >= 6 * 0.05


LIMIT = 4096  # bytes of a body, in place of 16 MiB


def packed(size):
    return gzip.compress(b"a" * size)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b'{"choices": [' + b"{}," * LIMIT),
        (400, {}, b'{"error": {"message": "' + b"a" * LIMIT),
        (200, {"Content-Encoding": "gzip"}, packed(100 * LIMIT)),
        (500, {"Content-Encoding": "deflate"}, packed(100 * LIMIT)),
    ],
)
def test_a_body_is_read_up_to_a_limit(tmp_path, status, headers, body):
    """Packed or not, of an answer or an error; the rest is not read, kept or asked for again and again."""
    with endpoint(lambda *_: (status, headers, body)) as (url, seen):
        judge = OpenAIJudge("judge", url, log=JudgeLog(tmp_path), longest_reply=LIMIT, limits=Limits(1))
        with pytest.raises(UserError, match="the reply is longer than 4,096 bytes.*give another judge"):
            judge.complete(requests(9))
    assert len(seen) == 3 and (tmp_path / LINES).stat().st_size < 3000


def test_a_packed_reply_within_the_limit_is_read():
    body = gzip.compress(json.dumps(completion()).encode())
    with endpoint(lambda *_: (200, {"Content-Encoding": "gzip"}, body)) as (url, _):
        (reply,) = OpenAIJudge("judge", url, longest_reply=LIMIT).complete(requests())
    assert reply.text == "Rating: [[7]]"


def test_choices_that_were_not_asked_for_are_not_kept(tmp_path):
    many = completion()
    many["choices"] += [{}] * 100_000
    with endpoint(lambda *_: (200, {}, many)) as (url, _):
        (reply,) = OpenAIJudge("judge", url, log=JudgeLog(tmp_path)).complete(requests())
    assert reply.text == "Rating: [[7]]" and (tmp_path / LINES).stat().st_size < 3000
    assert '"choices_sent": 100001' in rows(tmp_path)[0]["body"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_error_and_nothing_goes_to_the_other_host(status):
    with endpoint(lambda *_: (200, {}, completion())) as (other, stolen):
        place = {"Location": f"{other}/chat/completions?key=x"}
        with endpoint(lambda *_: (status, place, {})) as (url, seen):
            with pytest.raises(UserError, match=f"redirects to '{other}/chat/completions', which is not followed"):
                OpenAIJudge("judge", url).complete(requests())
    assert len(seen) == 1 and not stolen


def test_a_refusal_of_one_text_among_others_fails_alone_wherever_it_stands():
    """The first two of five are refused in words that could be of the form: the others are answered."""

    def answer(body, number):
        bad = body["messages"][0]["content"] in ("text 0", "text 1")
        return (400, {}, {"error": {"message": "odd"}}) if bad else (200, {}, completion())

    with endpoint(answer) as (url, _):
        replies = OpenAIJudge("judge", url, limits=Limits(1)).complete(requests(5))
    assert [reply.error for reply in replies] == 2 * ["BadRequestError: odd"] + 3 * [None]
