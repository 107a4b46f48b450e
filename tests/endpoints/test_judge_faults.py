"""A judge's server that fails at random, caps, kills and several processes: nothing lost, nothing asked twice."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from faulty_judge import judge_of, requests, serving
from openai_endpoint import KEY
from paths import HELPERS

from harness.endpoints.base import JudgeRequest
from harness.endpoints.client import DEAD, KEY_VARIABLE, OpenAIJudge
from harness.endpoints.limits import Limits, Price
from harness.endpoints.log import LINES, JudgeLog
from harness.errors import UserError
from harness.judges.base import complete
from harness.judges.verdicts import parse_rating

pytestmark = pytest.mark.usefixtures("judge_key")

PRICE = Price(1000.0, 1000.0)  # USD per million: a request of 10 + 5 tokens costs 0.015


def lines(folder):
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]


def has_verdict(reply):
    return parse_rating(reply.text) is not None


def test_two_thousand_requests_of_which_a_third_fails(tmp_path):
    """The scores of a healthy server (it rates text n with 1 + n % 10), and none asked again once it has its reply.

    A judgment without a verdict is no failure of the server: it is asked for once more, and then shown as unparsed.
    """
    with serving(0.3, ways=3 * "429 500 cut none " + "slow") as (server, url):
        replies = complete(judge_of(url, tmp_path), requests(2000), has_verdict, rejudge=True)
        attempts = sum(server.attempts.values())
    assert [reply.id for reply in replies] == [str(n) for n in range(2000)]
    assert not any(reply.error for reply in replies)
    ratings = {reply.id: parse_rating(reply.text) for reply in replies}
    unparsed = [id for id, rating in ratings.items() if rating is None]
    assert len(unparsed) < 25  # 0.07 ** 2 of 2,000 is 10
    assert all(rating == 1 + int(id) % 10 for id, rating in ratings.items() if rating is not None)
    assert len(lines(tmp_path)) == attempts == JudgeLog(tmp_path).spent().calls > 2600
    kept = Counter(row["key"] for row in lines(tmp_path) if row["reply"])
    assert set(kept.values()) == {1} and len(kept) >= 2000
    again = complete(judge_of(url, tmp_path), requests(2000), has_verdict, rejudge=True)  # the server is gone
    assert [reply.text for reply in again] == [reply.text for reply in replies]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_cap_on_calls_is_kept_to_the_call(tmp_path, share):
    with serving(share, ways="429 500 cut none") as (server, url):
        with pytest.raises(UserError, match="cap is reached: 150 calls.*--judge-max-calls"):
            judge_of(url, tmp_path, max_calls=150).complete(requests(300))
        assert sum(server.attempts.values()) == 150
        kept = {row["key"] for row in lines(tmp_path) if row["reply"]}
        replies = judge_of(url, tmp_path, max_calls=2000).complete(requests(300))
        assert all(reply.error is None for reply in replies) and len(replies) == 300
        after = Counter(row["key"] for row in lines(tmp_path) if row["reply"])
        assert kept <= set(after) and set(after.values()) == {1}
        if not share:
            assert sum(server.attempts.values()) == 300


def test_a_cap_on_cost_is_never_passed(tmp_path):
    """A request costs 0.015 and reserves at most (6 or 7 + 16 bytes + 5 tokens) / 1000: 100 fit into 1.51."""
    with serving() as (server, url):
        with pytest.raises(UserError, match="USD .*--judge-max-cost"):
            judge_of(url, tmp_path, max_cost=1.51, price=PRICE).complete(requests(300))
        spent = JudgeLog(tmp_path).spent()
        assert spent.calls == sum(server.attempts.values()) == 99 or spent.calls == 100
        assert spent.usd == pytest.approx(0.015 * spent.calls) and spent.usd <= 1.51
        judge_of(url, tmp_path, max_cost=99.0, price=PRICE).complete(requests(300))
        assert sum(server.attempts.values()) == 300


def test_what_a_time_out_may_have_cost_is_charged(tmp_path):
    with serving(1.0, ways="slow") as (_, url):
        judge = OpenAIJudge("m", url, log=JudgeLog(tmp_path), price=PRICE, timeout=0.1, retries=0)
        (reply,) = judge.complete(requests(1))
    assert "APITimeoutError" in reply.error
    assert JudgeLog(tmp_path).spent().usd == pytest.approx((len("text 0") + 16 + 5) / 1000)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faulty_judge import judge_of, requests
from harness.errors import UserError
try:
    judge = judge_of(sys.argv[2], Path(sys.argv[3]), concurrent=8, max_calls=int(sys.argv[4]))
    judge.complete(requests(400)[::int(sys.argv[5])])
except UserError as error:
    sys.exit(7)
"""


def child(url, folder, cap, step):
    arguments = [sys.executable, "-c", CHILD, str(HELPERS), url, str(folder), str(cap), str(step)]
    return subprocess.Popen(arguments, env=os.environ | {KEY_VARIABLE: KEY}, stderr=subprocess.DEVNULL)


def test_processes_share_one_cap(tmp_path):
    with serving() as (server, url):
        children = [child(url, tmp_path, 90, step) for step in (1, -1)]
        assert [each.wait(timeout=60) for each in children] == [7, 7]
        assert sum(server.attempts.values()) == 90 == JudgeLog(tmp_path).spent().calls


def test_after_a_kill_nothing_that_was_stored_is_asked_again(tmp_path):
    with serving() as (server, url):
        server.delay = 0.02
        running = child(url, tmp_path, 10_000, 1)
        while not (tmp_path / LINES).exists() or len((tmp_path / LINES).read_bytes().splitlines()) < 60:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        with open(tmp_path / LINES, "ab") as file:
            file.write(b'{"key": "torn')
        stored = {row["request"]["messages"][0]["content"] for row in lines_of_whole(tmp_path)}
        before = dict(server.attempts)
        server.delay = 0.0
        replies = judge_of(url, tmp_path).complete(requests(400))
        assert [parse_rating(reply.text) for reply in replies] == [1 + n % 10 for n in range(400)]
        assert all(server.attempts[text] == before[text] for text in stored)
        assert sum(server.attempts.values()) <= 400 + 8  # at most those that were under way


def test_a_server_that_dies_ends_the_run_and_is_asked_the_rest_when_it_is_back(tmp_path):
    """Connections are refused from the 41st reply on."""
    with serving() as (server, url):
        server.delay = 0.01
        judge = judge_of(url, tmp_path, concurrent=4, retries=3)

        def die(count):
            if JudgeLog(tmp_path).stored() > 40:
                server.dead = True
                server.shutdown()
                server.server_close()

        with pytest.raises(UserError) as raised:
            judge.complete(requests(200), die)
    stored = {row["request"]["messages"][0]["content"] for row in lines(tmp_path) if row["reply"]}
    assert 40 < len(stored) < 60
    told = str(raised.value)
    assert f"the judge at {url} no longer answers" in told and "APIConnectionError" in told
    assert f"{len(stored)} replies are stored in {tmp_path}" in told and "the same command continues" in told
    with serving(port=server.server_port) as (back, _):
        assert not any(reply.error for reply in judge_of(url, tmp_path).complete(requests(200)))
    assert stored.isdisjoint(back.attempts) and len(back.attempts) == 200 - len(stored)


def test_a_server_that_only_fails_ends_the_run(tmp_path):
    """Of an engine that has died behind its server; one request that fails alone does not end the run."""
    with serving(1.0, ways="500") as (server, url):
        with pytest.raises(UserError, match=r"no longer answers.*InternalServerError.*0 replies are stored"):
            judge_of(url, tmp_path, concurrent=4, retries=1).complete(requests(200))
        assert len(server.attempts) <= DEAD + 4


def lines_of_whole(folder):
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines() if line.endswith("}")]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": ({"role": "user", "content": "other"},)},
        {"messages": ({"role": "system", "content": "text 0"},)},
        {"temperature": 0.5},
        {"max_tokens": 6},
        {"alternatives": ("m", "M")},
        {"repeat": 1},
    ],
)
def test_all_that_changes_a_reply_changes_its_key(change):
    (request,) = requests(1)
    judge = judge_of("http://127.0.0.1:9/v1")
    assert judge.key(request) == judge.key(JudgeRequest("another id", request.messages, max_tokens=5))
    assert judge.key(request) != judge.key(JudgeRequest(**{**vars(request), **change}))
    assert judge.key(request) != judge_of("http://127.0.0.1:8/v1").key(request)
    assert judge.key(request) != OpenAIJudge("n", "http://127.0.0.1:9/v1").key(request)


def test_equal_requests_are_asked_once(tmp_path):
    with serving() as (server, url):
        replies = judge_of(url, tmp_path).complete(requests(3) * 4)
    assert [reply.text for reply in replies[:3]] == [reply.text for reply in replies[9:]]
    assert sum(server.attempts.values()) == 3


def test_the_key_of_the_api_is_in_no_file(tmp_path):
    with serving(0.3, ways="500 cut") as (_, url):
        judge_of(url, tmp_path).complete(requests(20))
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_a_lasting_failure_is_asked_again_by_the_next_call(tmp_path):
    with serving(1.0, ways="500") as (server, url):
        judge = OpenAIJudge("m", url, log=JudgeLog(tmp_path), retries=1, first_wait=0.01)
        assert judge.complete(requests(1))[0].error
        server.share = 0.0
        assert judge_of(url, tmp_path).complete(requests(1))[0].error is None


def test_a_cap_in_usd_needs_a_price():
    with pytest.raises(UserError, match="--judge-price"):
        OpenAIJudge("my-own", "http://127.0.0.1:9/v1", limits=Limits(max_cost=1.0))
    assert OpenAIJudge("gpt-4o", "http://127.0.0.1:9/v1", limits=Limits(max_cost=1.0)).price == Price(2.5, 10)


def test_requests_a_minute(tmp_path):
    """A minute has 1,200: 11 requests take half a second at least."""
    with serving() as (_, url):
        judge = OpenAIJudge("m", url, limits=Limits(8, per_minute=1200))
        start = time.monotonic()
        judge.complete(requests(11))
        assert time.monotonic() - start >= 0.45


@pytest.mark.filterwarnings("error")
def test_a_signal_before_the_first_request_leaves_no_warning(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    judge = OpenAIJudge("m", "http://127.0.0.1:9/v1", log=JudgeLog(tmp_path))
    monkeypatch.setattr(asyncio.Runner, "__enter__", interrupted)  # while the loop is made
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)  # warnings of what nobody waits for end there
    with pytest.raises(KeyboardInterrupt):
        judge.complete(requests(1))
    gc.collect()
    assert not [each for each in unraisable if "never awaited" in str(each.exc_value)]
