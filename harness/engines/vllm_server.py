"""A vLLM server (vllm serve) as the backend of an engine, on this machine or one that shares its folders.

The server has a copy of the weights, which this process can not see: a probe is read by both before anything is asked,
and log-probabilities that differ say that they are not the same. Then the server is told to load the engine's folder,
which it does in its development mode alone (VLLM_SERVER_DEV_MODE=1).
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from harness.engines.vllm import VLLMEngine, Wish
from harness.errors import UserError
from harness.types import TokenIds

AT_ONCE = 64  # requests on their way
TRIES = 5
PROBES = ("Name three colours.", "What is 2 + 2?", "Write a sentence about the sea.")
REPLIES = ("Red, green and blue.", "2 + 2 = 4", "The sea is wide, and it is never still.")
APART = {"float32": 1e-3}  # nats a token: that the same weights may differ by
APART_16_BITS = 0.1


class Server:
    """The server at a URL, such as http://127.0.0.1:8000/v1. Its key comes from OPENAI_API_KEY."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._serving: VLLMEngine | None = None

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=TRIES)

    @cached_property
    def _model(self) -> str:
        return self._said(lambda: self._client.models.list().data[0].id)

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
                f"differ by {apart:.2g} nats a token, also after it was told to load them. Start it with them, or "
                "leave --engine-url out, so that vLLM runs in this process"
            )
        self._serving = engine

    def complete(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        return [choice.token_ids for choice in self._each([(wish.prompt, wish.sampling) for wish in wishes])]

    def read(self, sequences: Sequence[TokenIds]) -> list[list[float]]:
        asked = {"max_tokens": 1, "prompt_logprobs": 0, "temperature": 0.0}
        choices = self._each([(tokens, asked) for tokens in sequences])
        return [
            [known[str(token)]["logprob"] for known, token in zip(choice.prompt_logprobs[1:], tokens[1:], strict=True)]
            for choice, tokens in zip(choices, sequences, strict=True)
        ]

    def rest(self) -> None:
        """The server's memory is its own."""

    def _each(self, asked: Sequence[tuple[TokenIds, dict[str, Any]]]) -> list[Any]:
        def ask(one: tuple[TokenIds, dict[str, Any]]) -> Any:
            prompt, sampling = one
            own = {name: sampling[name] for name in ("max_tokens", "temperature", "top_p", "seed") if name in sampling}
            more = {name: value for name, value in sampling.items() if name not in own} | {"return_token_ids": True}
            completions = self._client.completions
            return completions.create(model=self._model, prompt=list(prompt), extra_body=more, **own).choices[0]

        def ask_all() -> list[Any]:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                return list(pool.map(ask, asked))

        return self._said(ask_all)

    def _apart(self, engine: VLLMEngine) -> float:
        """How far log-probabilities of this process and the server are apart, in nats a token, at most."""
        local = engine.local
        prompts, replies = [], []
        for text, answer in zip(PROBES, REPLIES, strict=True):
            prompt, (reply,) = local.encode_replies([{"role": "user", "content": text}], [answer])
            prompts.append(prompt)
            replies.append(reply)
        ours = local.logprobs(prompts, replies)
        theirs = self.read([(*prompt, *reply) for prompt, reply in zip(prompts, replies, strict=True)])
        return max(
            abs(own.total - sum(read[len(prompt) - 1 :])) / own.tokens
            for own, read, prompt in zip(ours, theirs, prompts, strict=True)
        )

    def _reload(self, engine: VLLMEngine) -> None:
        """Has the server load an engine's weights, and forget what it knows of prompts."""
        import httpx2

        root = self.url.removesuffix("/v1")
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(engine.folder.resolve())}}
        try:
            httpx2.post(f"{root}/collective_rpc", content=json.dumps(call), timeout=600).raise_for_status()
            httpx2.post(f"{root}/reset_prefix_cache", timeout=600).raise_for_status()
        except httpx2.HTTPError as error:
            raise UserError(
                f"the server at {self.url} runs other weights than {engine.folder}, and does not load them ({error}): "
                "start it with VLLM_SERVER_DEV_MODE=1, on a machine that sees this folder, or leave --engine-url out"
            ) from None

    def _said(self, ask: Any) -> Any:
        from openai import OpenAIError

        try:
            return ask()
        except OpenAIError as error:
            raise UserError(
                f"the server at {self.url} gave no answer ({str(error).partition(chr(10))[0]:.300}): "
                "is it a vLLM server, and does it run?"
            ) from error
