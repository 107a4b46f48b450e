"""A model behind an OpenAI-compatible endpoint, scored through it as the model itself is."""

import json
from itertools import count

import pytest
from command_line import harness
from loopback_model import served

from harness.endpoints.client import OpenAIJudge
from harness.engines.base import Sampling
from harness.engines.endpoint import EndpointEngine
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import store


def engine_at(url, **options) -> EndpointEngine:
    return EndpointEngine(OpenAIJudge("some-model", url, role="model", **options))


def test_the_scores_are_those_of_the_model_itself(testbed_model_dir, tmp_path):
    engine = TransformersEngine.load(testbed_model_dir, device="cpu")
    calls = []

    def answer(asked):
        calls.append(asked)
        sampling = Sampling(asked["max_tokens"], asked["temperature"])
        (completion,) = engine.generate([engine.encode_chat(asked["messages"])], ["any"], sampling)
        return 200, completion.text, "stop" if completion.finished else "length"

    chosen = ("--benchmark", "mt-bench,math", "--limit", "5", "--json")
    expected = json.loads(harness("eval", "testbed", *chosen, cwd=tmp_path))
    with served(answer) as url:
        asked = ("eval", "served:1b", "--model-url", url, *chosen)
        table = json.loads(harness(*asked, cwd=tmp_path))
    cells = table["rows"][0]["cells"]
    assert cells["math"] == expected["rows"][0]["cells"]["math"]  # greedy
    assert (cells["mt-bench"]["questions"], cells["mt-bench"]["missing"]) == (5, 0)  # sampled
    assert len(calls) == 3 * 5  # two turns, one problem
    assert {call["model"] for call in calls} == {"served:1b"}
    folder = tmp_path / "results" / "runs" / "eval-served-1b"
    samples = store.read_jsonl(folder / "arms" / "base-seed0" / "samples" / "mt-bench.jsonl")
    first_replies = [call["messages"][1]["content"] for call in calls if len(call["messages"]) == 3]
    assert sorted(first_replies) == sorted(sample["turns"][0] for sample in samples)
    assert len(store.read_jsonl(folder / "model" / "requests.jsonl")) == len(calls)
    assert json.loads(harness(*asked, cwd=tmp_path)) == table  # the endpoint is gone, and not asked again
    assert "verified" in harness("verify", folder, cwd=tmp_path)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("eval", "m"), "reward-bench needs log-probabilities of given texts, which an endpoint does not return"),
        (("eval", "m", "--benchmark", "math"), "the model at http://127.0.0.1:9/v1 cannot be reached"),
        (("run", "--method", "sso"), "a model behind an endpoint can be scored, not trained"),
    ],
)
def test_what_an_endpoint_can_not_do(command, message, tmp_path):
    asked = (*command, "--model-url", "http://127.0.0.1:9/v1")
    assert message in harness(*asked, cwd=tmp_path, code=2)


def test_answers_and_where_they_end():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Über\u2028 <|end|>?"}]

    def answer(asked):
        assert asked["messages"] == chat
        return 200, f"{asked['max_tokens']} é", "length" if asked["max_tokens"] == 1 else "stop"

    with served(answer) as url:
        engine = engine_at(url)
        for tokens in (1, 2):
            (completion,) = engine.generate([engine.encode_chat(chat)], ["q"], Sampling(tokens))
            assert (completion.text, completion.finished) == (f"{tokens} é", tokens == 2)
            assert bytes(completion.token_ids).decode() == completion.text


def test_seeds_are_asked_anew_where_answers_are_sampled():
    counter = count(1)
    with served(lambda _asked: (200, str(next(counter)), "stop")) as url:
        engine = engine_at(url)
        prompt = engine.encode_chat([{"role": "user", "content": "q"}])

        def answers(temperature):
            return [engine.generate([prompt], ["q"], Sampling(9, temperature, seed=seed))[0].text for seed in (0, 1, 0)]

        assert answers(0.0) == ["1", "1", "1"]
        assert answers(0.7) == ["2", "3", "2"]


def test_a_prompt_without_an_answer_is_no_empty_answer():
    def answer(asked):
        long = "long" in asked["messages"][-1]["content"]
        return (400, "context length exceeded", None) if long else (200, "Yes.", "stop")

    with served(answer) as url:
        engine = engine_at(url)
        prompts = [engine.encode_chat([{"role": "user", "content": text}]) for text in ("short", "long")]
        with pytest.raises(UserError, match=r"no answer to 1 of 2 prompts, such as math/7 \(.*context length exceeded"):
            engine.generate(prompts, ["math/6", "math/7"], Sampling(9))
