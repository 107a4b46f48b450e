"""A local model as the judge: replies of its engine, letters by log-probability, names by weights."""

import math

import pytest
from command_line import harness

from harness.endpoints.base import JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine
from harness.judges.engine import EngineJudge


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return TransformersEngine.load(str(tiny_model_dir))


def chat(text):
    return ({"role": "system", "content": "Judge."}, {"role": "user", "content": text})


def test_replies_are_the_engine_s(engine):
    requests = [JudgeRequest(str(n), chat(f"answer {n % 3}"), max_tokens=6 + n % 2) for n in range(6)]
    counts = []
    replies = EngineJudge(engine).complete(requests, counts.append)
    assert [reply.id for reply in replies] == [str(n) for n in range(6)] and sum(counts) == 6
    for request, reply in zip(requests, replies, strict=True):
        (alone,) = engine.generate([engine.encode_chat(request.messages)], ["x"], Sampling(request.max_tokens))
        assert reply.text == alone.text and reply.error is None and reply.date
    name = EngineJudge(engine).name
    assert {reply.model for reply in replies} == {name} and name.endswith(f"@{engine.weights_hash[:8]}")


def test_letters(engine):
    (reply,) = EngineJudge(engine).complete([JudgeRequest("1", chat("m or M?"), max_tokens=1, alternatives=("m", "M"))])
    prompt = engine.encode_chat(chat("m or M?"))
    scored = engine.logprobs([prompt] * 2, [(engine.tokenizer.convert_tokens_to_ids(letter),) for letter in "mM"])
    assert reply.first_token == pytest.approx(dict(zip("mM", (each.total for each in scored), strict=True)), abs=1e-5)
    assert reply.text == max(reply.first_token, key=reply.first_token.get)
    assert sum(map(math.exp, reply.first_token.values())) < 1


def test_a_request_beyond_the_context_is_missing(engine):
    long, short = EngineJudge(engine).complete(
        [JudgeRequest("1", chat("x" * 600), max_tokens=8), JudgeRequest("2", chat("x"), max_tokens=8)]
    )
    tokens = len(engine.encode_chat(chat("x" * 600)))
    assert long.error == f"the request has {tokens} tokens and the judge's context 512" and long.text == ""
    assert short.error is None


def test_the_log_answers_what_was_asked_before(engine, tmp_path, monkeypatch):
    request = JudgeRequest("1", chat("again"), max_tokens=4)
    first = EngineJudge(engine, JudgeLog(tmp_path)).complete([request, request])
    monkeypatch.setattr(engine, "generate", lambda *_: pytest.fail("asked again"))
    assert EngineJudge(engine, JudgeLog(tmp_path)).complete([request]) == first[:1] == first[1:]


def test_a_run_with_a_local_judge(tiny_model_dir, tmp_path):
    """The tiny model gives no verdicts, and pairs do not fit its context: unparsed and missing are in the table."""
    told = harness("testbed", "suites", "suites", cwd=tmp_path)
    assert "suites" in told
    out = harness(
        *("eval", "testbed", "--data-dir", "suites", "--benchmark", "alpaca-eval,mt-bench", "--limit", "3"),
        *("--judge-engine", tiny_model_dir, "--answer-tokens", "8", "--both-orders", "--rejudge"),
        "--accept-missing",
        cwd=tmp_path,
    )
    assert f"judge {tiny_model_dir.name}@" in out
    assert "missing: base 3; unparsed: none." in out and "missing: base 1; unparsed: base 5." in out
    assert list(tmp_path.glob("results/runs/*/judge/requests.jsonl"))
