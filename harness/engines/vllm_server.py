"""A vLLM server (vllm serve) as the backend of an engine, on this machine or one that shares its folders.

This process cannot see the server's copy of the weights, so both read a probe first: if the log-probabilities differ,
so do the weights. The server is then asked to load the engine's folder, which it does only in its development mode
(VLLM_SERVER_DEV_MODE=1).
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from harness.engines.vllm import VLLMEngine, Wish
from harness.errors import UserError
from harness.types import TokenIds

AT_ONCE = 64  # concurrent requests
TRIES = 5
PROBES = ("Name three colours.", "What is 2 + 2?", "Write a sentence about the sea.")
REPLIES = ("Red, green and blue.", "2 + 2 = 4", "The sea is wide, and it is never still.")
APART = {"float32": 1e-3}  # nats per token by which the same weights may differ
APART_16_BITS = 0.1


class Server:
    """The server at a URL, such as http://127.0.0.1:8000/v1. Its key is read from OPENAI_API_KEY."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._serving: VLLMEngine | None = None

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=TRIES)

    @cached_property
    def _model(self) -> str:
        return self._request(lambda: self._client.models.list().data[0].id)

    def serve(self, engine: VLLMEngine) -> None:
        if self._serving is engine:
            return
        self._serving = None
        apart = self._apart(engine)
        most = APART.get(str(engine.local.model.dtype).removeprefix("torch."), APART_16_BITS)
        if apart > most:
            self._reload(engine)
            apart = self._apart(engine)
        if apart > most:
            raise UserError(
                f"the server at {self.url} does not run the weights of {engine.folder}: log-probabilities of a probe "
                f"differ by {apart:.2g} nats per token, even after it was asked to load them. Start it with them, or "
                "omit --engine-url to run vLLM in this process"
            )
        self._serving = engine

    def complete(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        return [choice.token_ids for choice in self._complete_all([(wish.prompt, wish.sampling) for wish in wishes])]

    def read(self, sequences: Sequence[TokenIds]) -> list[list[float]]:
        asked = {"max_tokens": 1, "prompt_logprobs": 0, "temperature": 0.0}
        choices = self._complete_all([(tokens, asked) for tokens in sequences])
        return [
            [known[str(token)]["logprob"] for known, token in zip(choice.prompt_logprobs[1:], tokens[1:], strict=True)]
            for choice, tokens in zip(choices, sequences, strict=True)
        ]

    def rest(self) -> None:
        """Do nothing: the server's memory is not ours."""

    def _complete_all(self, asked: Sequence[tuple[TokenIds, dict[str, Any]]]) -> list[Any]:
        def ask(request: tuple[TokenIds, dict[str, Any]]) -> Any:
            prompt, sampling = request
            usual = {
                name: sampling[name] for name in ("max_tokens", "temperature", "top_p", "seed") if name in sampling
            }
            more = {name: value for name, value in sampling.items() if name not in usual} | {"return_token_ids": True}
            completions = self._client.completions
            return completions.create(model=self._model, prompt=list(prompt), extra_body=more, **usual).choices[0]

        def ask_all() -> list[Any]:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                return list(pool.map(ask, asked))

        return self._request(ask_all)

    def _apart(self, engine: VLLMEngine) -> float:
        """Return the largest difference between this process's and the server's log-probabilities, nats per token."""
        local = engine.local
        prompts, replies = [], []
        for text, answer in zip(PROBES, REPLIES, strict=True):
            prompt, (reply,) = local.encode_replies([{"role": "user", "content": text}], [answer])
            prompts.append(prompt)
            replies.append(reply)
        ours = local.logprobs(prompts, replies)
        theirs = self.read([(*prompt, *reply) for prompt, reply in zip(prompts, replies, strict=True)])
        return max(
            abs(local.total - sum(read[len(prompt) - 1 :])) / local.tokens
            for local, read, prompt in zip(ours, theirs, prompts, strict=True)
        )

    def _reload(self, engine: VLLMEngine) -> None:
        """Have the server load an engine's weights and empty its prefix cache."""
        import httpx2

        root = self.url.removesuffix("/v1")
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(engine.folder.resolve())}}
        try:
            httpx2.post(f"{root}/collective_rpc", content=json.dumps(call), timeout=600).raise_for_status()
            httpx2.post(f"{root}/reset_prefix_cache", timeout=600).raise_for_status()
        except httpx2.HTTPError as error:
            raise UserError(
                f"the server at {self.url} runs other weights than {engine.folder} and does not load them ({error}): "
                "start it with VLLM_SERVER_DEV_MODE=1 on a machine that sees this folder, or omit --engine-url"
            ) from None

    def _request(self, ask: Callable[[], Any]) -> Any:
        from openai import OpenAIError

        try:
            return ask()
        except OpenAIError as error:
            raise UserError(
                f"the server at {self.url} gave no answer ({str(error).partition(chr(10))[0]:.300}): "
                "is it a vLLM server, and is it running?"
            ) from error
