"""vLLM: tokens, log-probabilities and runs next to the transformers engine's, in the environment of make vllm-env."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from loopback_json import json_server

from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine
from harness.engines.vllm import VLLMEngine
from harness.engines.vllm_server import Server
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs import engine_choice as choice

pytestmark = pytest.mark.vllm

needs_vllm = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed: make vllm-env")
PROMPTS = 60


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_auto_is_transformers_and_asking_for_it_says_what_to_do():
    assert choice.described(Experiment()) == "transformers"
    with pytest.raises(UserError, match="vLLM is not installed here: .*make vllm-env"):
        choice.chosen(Experiment(engine="vllm"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"engine": "vlm"}, "engine 'vlm'.*vllm"),
        ({"engine": "transformers", "engine_url": "http://localhost:8000/v1"}, "engine_url names a vLLM server"),
        ({"gpu_memory": 1.5}, "option 'gpu_memory' must be at most 1, not 1.5"),
        ({"tensor_parallel": 0}, "tensor_parallel' must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options, told):
    with pytest.raises(UserError, match=told):
        Experiment(**options)


@pytest.fixture(scope="module")
def engine(testbed_model_dir):
    found = choice.load_engine(Experiment(engine="vllm", device="cpu"), testbed_model_dir)
    yield found
    found.rest()


@pytest.fixture(scope="module")
def chats(engine):
    from harness.testbed.prompts import prompts

    return [engine.encode_chat(prompt.messages) for prompt in prompts()[:PROMPTS]]


ITEMS = [f"item-{number}" for number in range(PROMPTS)]


@needs_vllm
def test_greedy_tokens_are_those_of_transformers(engine, chats):
    assert engine.generate(chats, ITEMS, Sampling(48)) == engine.local.generate(chats, ITEMS, Sampling(48))


@needs_vllm
def test_a_sample_depends_on_its_seed_and_item_alone(engine, chats):
    sampling = Sampling(32, temperature=1.0, top_p=0.9, seed=3)
    together = engine.generate(chats, ITEMS, sampling)
    assert engine.generate(chats[20:23], ITEMS[20:23], sampling) == together[20:23]
    assert engine.generate(chats, ITEMS, Sampling(32, 1.0, 0.9, seed=4)) != together
    assert len({each.text for each in engine.generate(chats[:1] * 20, ITEMS[:20], sampling)}) > 1


@needs_vllm
def test_log_probabilities_are_those_of_transformers(engine, chats):
    completions = [each.token_ids for each in engine.generate(chats, ITEMS, Sampling(32, temperature=1.0))]
    here, there = engine.logprobs(chats, completions), engine.local.logprobs(chats, completions)
    assert [each.tokens for each in here] == [each.tokens for each in there]
    assert [each.total for each in here] == pytest.approx([each.total for each in there], abs=1e-3)


@needs_vllm
def test_sequences_that_fill_the_context(engine):
    prompt, rest = tuple(range(10, 20)), engine.context_length - 10
    pairs = [prompt, prompt], [(7,) * rest, (7,) * (rest - 1)]
    here, there = engine.logprobs(*pairs), engine.local.logprobs(*pairs)
    assert [each.mean for each in here] == pytest.approx([each.mean for each in there], abs=1e-3)
    full = (*prompt, *(7,) * (rest - 1))
    assert len(engine.generate([full], ["a"], Sampling(64))[0].token_ids) == 1
    with pytest.raises(UserError, match="the prompt of a has 8192 tokens and the context of .* ends at 8192"):
        engine.generate([(*full, 7)], ["a"], Sampling(64))


@needs_vllm
def test_other_weights_replace_the_first(engine, chats, tmp_path):
    """Embeddings are tied in this model, and reloading in place would leave the output's as they were."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(engine.folder)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.05)
    model.save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    other = choice.load_engine(Experiment(engine="vllm", device="cpu"), tmp_path)
    assert other.backend is engine.backend  # one vLLM a process
    changed = other.generate(chats, ITEMS, Sampling(32))
    assert changed == other.local.generate(chats, ITEMS, Sampling(32)) != engine.generate(chats, ITEMS, Sampling(32))
    other.rest()
    assert other.generate(chats, ITEMS, Sampling(32)) == changed


@needs_vllm
def test_a_whole_run(tmp_path):
    command = [sys.executable, "-m", "harness", "run", "--method", "sso", "--budget", "1e11"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(engine: str) -> tuple[dict, str]:
        options = ["--benchmark", "math,reward-bench", "--limit", "40", "--engine", engine, "--name", engine, "--json"]
        ran = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return {row["method"]: row for row in json.loads(ran.stdout)["rows"]}, ran.stderr

    (ours, said), (plain, _) = run("vllm"), run("transformers")
    assert "engine: vllm" in said
    assert ours["base"]["cells"]["reward-bench"]["value"] == plain["base"]["cells"]["reward-bench"]["value"]
    assert ours["sso"]["spent"]["share_max"] <= 1 and ours["sso"]["spent"]["share_min"] > 0.9
    assert "vllm" in " ".join(json.loads((tmp_path / "results/runs/vllm/versions.json").read_text()))


# A server


class Served:
    """Answers as vLLM's server does, with an engine of transformers."""

    def __init__(self, folder):
        self.engine = TransformersEngine.load(folder, device="cpu")
        self.asked, self.reloads = [], True

    def answer(self, path: str, asked: dict) -> tuple[int, dict]:
        if path == "/v1/models":
            model = {"id": "some-model", "object": "model", "created": 0, "owned_by": ""}
            return 200, {"object": "list", "data": [model]}
        self.asked.append((path, asked))
        if path == "/collective_rpc":
            if self.reloads:
                self.engine = TransformersEngine.load(asked["kwargs"]["weights_path"], device="cpu")
            return 200, {}
        if path == "/reset_prefix_cache":
            return 200, {}
        prompt = tuple(asked["prompt"])
        choice = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
        if "prompt_logprobs" in asked:
            places = range(1, len(prompt))
            own = [self.engine.logprobs([prompt[:end]], [prompt[end : end + 1]])[0].total for end in places]
            choice["prompt_logprobs"] = [None]
            choice["prompt_logprobs"] += [
                {str(token): {"logprob": each}} for token, each in zip(prompt[1:], own, strict=True)
            ]
        else:
            completed = self.engine.generate([prompt], ["item"], Sampling(asked["max_tokens"]))[0]
            choice["token_ids"] = list(completed.token_ids)
        return 200, {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def server(tiny_model_dir):
    found = Served(tiny_model_dir)
    with json_server(found.answer) as url:
        found.url = f"{url}/v1"
        yield found


@pytest.fixture
def other_model_dir(tiny_model_dir, tmp_path):
    """The same architecture with other weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def engine_of(folder, backend):
    return VLLMEngine(TransformersEngine.load(folder, device="cpu"), folder, backend)


def test_a_server_answers_with_the_weights_that_are_meant(server, tiny_model_dir, other_model_dir):
    backend = Server(server.url)
    first, second = engine_of(tiny_model_dir, backend), engine_of(other_model_dir, backend)
    prompts = [first.encode_chat([{"role": "user", "content": text}]) for text in ("a", "b c")]
    for engine in (first, second, first):
        completions = engine.generate(prompts, ["1", "2"], Sampling(6))
        assert completions == engine.local.generate(prompts, ["1", "2"], Sampling(6))
        texts = [each.token_ids for each in completions]
        here, there = engine.logprobs(prompts, texts), engine.local.logprobs(prompts, texts)
        assert [each.total for each in here] == pytest.approx([each.total for each in there], abs=1e-4)
    loads = [asked["kwargs"]["weights_path"] for path, asked in server.asked if path == "/collective_rpc"]
    assert loads == [str(other_model_dir), str(tiny_model_dir)]  # the first was there already
    assert sum(path == "/reset_prefix_cache" for path, _ in server.asked) == 2


def test_what_a_server_is_asked(server, tiny_model_dir):
    engine = engine_of(tiny_model_dir, Server(server.url + "/"))
    prompt = engine.encode_chat([{"role": "user", "content": "a"}])
    engine.generate([prompt], ["item"], Sampling(5, temperature=0.7, top_p=0.9, seed=3))
    _, asked = server.asked[-1]
    seed = int.from_bytes(hashlib.sha256(b"3/item").digest()[:8], "big", signed=True) % 2**31
    sampling = {"max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "seed": seed, "stop_token_ids": [4]}
    assert asked == {"model": "some-model", "prompt": list(prompt), "return_token_ids": True, **sampling}


def test_a_server_that_does_not_load_other_weights_is_refused(server, tiny_model_dir, other_model_dir):
    server.reloads = False
    backend = Server(server.url)
    first, second = engine_of(tiny_model_dir, backend), engine_of(other_model_dir, backend)
    prompt = first.encode_chat([{"role": "user", "content": "a"}])
    first.generate([prompt], ["1"], Sampling(2))
    with pytest.raises(
        UserError, match=f"does not run the weights of {other_model_dir}: .* differ by .* nats per token"
    ):
        second.generate([prompt], ["1"], Sampling(2))
    assert first.generate([prompt], ["1"], Sampling(2)) == first.local.generate([prompt], ["1"], Sampling(2))


def test_no_server(tiny_model_dir, monkeypatch):
    monkeypatch.setattr("harness.engines.vllm_server.TRIES", 0)
    engine = engine_of(tiny_model_dir, Server("http://127.0.0.1:9/v1"))
    with pytest.raises(UserError, match="the server at http://127.0.0.1:9/v1 gave no answer .*: is it a vLLM server"):
        engine.generate([(5, 6)], ["1"], Sampling(2))


def test_an_adapter_is_refused(tiny_model_dir, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_model_dir)}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="is an adapter, which is not supported with vLLM"):
        VLLMEngine(TransformersEngine.load(tiny_model_dir, device="cpu"), tmp_path, Server("http://127.0.0.1:9/v1"))
