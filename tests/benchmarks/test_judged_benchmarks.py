"""End to end: real questions, a real engine on the tiny model, a judge over HTTP, stored rows, scores."""

import json
import threading

import pytest
from loopback_judge import MODEL, serve

from harness.benchmarks.alpaca_eval import AlpacaEval
from harness.benchmarks.base import Judging, Policy, Questions, Settings
from harness.benchmarks.mt_bench import TEMPERATURES, MTBench
from harness.endpoints.client import OpenAIJudge
from harness.engines.base import Sampling

SETTINGS = Settings(seed=5, max_new_tokens=6)


@pytest.fixture(scope="module")
def policy(tiny_model_dir):
    from harness.engines.transformers import TransformersEngine

    engine = TransformersEngine.load(str(tiny_model_dir))
    engine.context_length = 4096  # the questions are longer than 512 bytes, and rotary positions go on
    return Policy(engine)


@pytest.fixture(scope="module")
def judge():
    with serve() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield OpenAIJudge("any", f"http://127.0.0.1:{server.server_port}/v1", retries=0)
        server.shutdown()
        thread.join()


def stored(rows):
    """Rows as they come back from a file."""
    return [json.loads(line) for line in "\n".join(json.dumps(row) for row in rows).split("\n")]


def test_mt_bench(data_dir, policy, judge):
    bench = MTBench()
    items = bench.load(data_dir, SETTINGS)[:3]
    samples = stored(bench.answer(policy, items, SETTINGS, None))
    assert [sample["id"] for sample in samples] == ["81", "82", "83"]
    for item, sample in zip(
        items, samples, strict=True
    ):  # each turn alone gives the same: the first one's answer is seen
        chat = []
        for turn in (0, 1):
            chat.append({"role": "user", "content": item["turns"][turn]})
            (alone,) = policy.engine.generate(
                [policy.engine.encode_chat(chat)],
                [f"mt-bench/{item['id']}/turn-{turn + 1}"],
                Sampling(6, TEMPERATURES["writing"], seed=5),
            )
            assert sample["turns"][turn] == alone.text
            chat.append({"role": "assistant", "content": alone.text})
    judgments = stored(bench.judge(items, samples, judge, Judging(), None))
    assert [(row["question_id"], row["turn"]) for row in judgments] == [(q, t) for q in (81, 82, 83) for t in (1, 2)]
    assert all(row["judge"][0] == MODEL and row["fingerprint"] == "rule-1" and row["date"] for row in judgments)
    score = bench.score(items, samples, judgments)
    ratings = [float(row["judgment"].rpartition("[[")[2].removesuffix("]]")) for row in judgments]
    assert score.value == pytest.approx(sum(ratings) / 6)
    assert (score.questions, score.missing, score.unparsed, score.judge) == (3, 0, 0, MODEL)


def test_alpaca_eval(data_dir, policy, judge):
    bench = AlpacaEval()
    items = bench.load(data_dir, SETTINGS).only(range(3))
    samples = stored(bench.answer(policy, items, SETTINGS, None))
    assert all(0 < sample["tokens"] <= 6 for sample in samples)
    judgments = stored(bench.judge(items, samples, judge, Judging(), None))
    assert all(row["judge"] == MODEL and row["fingerprint"] == "rule-1" for row in judgments)
    score = bench.score(items, samples, judgments)
    assert (score.questions, score.missing, score.unparsed) == (3, 0, 0)
    # Random bytes share no word with a question: the rule prefers the reference by how many its answer shares
    assert all(0 < value < 50 for value in score.values.values())
    assert score.value == pytest.approx(sum(score.values.values()) / 3)
    as_policy = [{"id": item["id"], "output": item["reference"], "tokens": 1, "finished": True} for item in items]
    against = Questions(item | {"reference": sample["output"]} for item, sample in zip(items, samples, strict=True))
    turned = bench.score(against, as_policy, bench.judge(against, as_policy, judge, Judging(), None))
    assert turned.value == pytest.approx(100 - score.value)


def test_scoring_again_needs_no_model(data_dir, policy, judge):
    """Samples judged twice by the same rule give the same rows but for their dates."""
    bench = MTBench()
    items = bench.load(data_dir, SETTINGS)[:3]
    samples = [{"id": item["id"], "turns": ["travel blog", "rewrite"]} for item in items]
    first, second = (
        [
            {name: value for name, value in row.items() if name != "date"}
            for row in bench.judge(items, samples, judge, Judging(), None)
        ]
        for _ in range(2)
    )
    assert first == second
    assert bench.score(items, samples, first) == bench.score(items, samples, second)
