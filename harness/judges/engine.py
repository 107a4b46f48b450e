"""A judge that is an engine: a local model, so that everything works without an API key."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.engines.base import Engine, Sampling
from harness.files import store
from harness.judges.local import LocalJudge
from harness.progress import Advance
from harness.types import TokenIds


class EngineJudge(LocalJudge):
    """A local model that writes its judgments, or is read for the probability of each alternative."""

    def __init__(
        self,
        engine: Engine,
        log: JudgeLog | None = None,
        seed: int = 0,
        name: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            log: where requests and replies are stored and looked up; None stores nothing.
            name: of the model, for people; else the engine's name.
            max_tokens: of each text reply, instead of the request's.
        """
        super().__init__(name or engine.name, engine.weights_hash, log)
        self.engine, self.seed, self.max_tokens = engine, seed, max_tokens

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        if self.max_tokens:
            requests = [
                request if request.alternatives else replace(request, max_tokens=self.max_tokens)
                for request in requests
            ]
        return super().complete(requests, advance)

    def key(self, request: JudgeRequest) -> str:
        """Return the digest of everything that changes the reply; also the key of its sampling noise."""
        facts = {name: value for name, value in asdict(request).items() if name not in ("id", "compared")}
        return store.digest({"weights": self.weights_hash, "seed": self.seed, **facts})

    def asked(self, request: JudgeRequest) -> dict[str, Any]:
        return {
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": self.seed,
        }

    def judge(self, requests: Sequence[JudgeRequest], keys: Sequence[str]) -> list[dict[str, Any]]:
        engine, first = self.engine, requests[0]
        encoded = [self._encoded(request) for request in requests]
        prompts = [prompt for prompt, _ in encoded]
        fitting = [
            place
            for place, (prompt, letters) in enumerate(encoded)
            if len(prompt) + max(map(len, letters), default=1) <= engine.context_length
        ]
        chosen = [prompts[place] for place in fitting]
        answers: list[dict[str, Any]] = []
        if fitting and first.alternatives:
            answers = self._compare([encoded[place] for place in fitting], first.alternatives)
        elif fitting:
            sampling = Sampling(first.max_tokens, first.temperature, seed=self.seed)
            made = engine.generate(chosen, [f"judge/{keys[place]}" for place in fitting], sampling)
            answers = [
                {
                    "text": completion.text,
                    "completion_tokens": len(completion.token_ids),
                    "finish_reason": "stop" if completion.finished else "length",
                }
                for completion in made
            ]
        known = dict(zip(fitting, answers, strict=True))
        return [
            {"prompt_tokens": len(prompt)}
            | (
                known.get(place)
                or {
                    "text": "",
                    "error": f"the request has {len(prompt)} tokens and the judge's context {engine.context_length}",
                }
            )
            for place, prompt in enumerate(prompts)
        ]

    def _encoded(self, request: JudgeRequest) -> tuple[TokenIds, list[TokenIds]]:
        """Return the prompt, and the answers to compare if the request names some."""
        if request.alternatives:
            return self.engine.encode_alternatives(request.messages, request.alternatives)
        return self.engine.encode_chat(request.messages), []

    def _compare(
        self, encoded: Sequence[tuple[TokenIds, list[TokenIds]]], alternatives: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return the log-probability (nats) of each alternative for each prompt, with the likeliest as the text."""
        number = len(alternatives)
        scored = self.engine.logprobs(
            [prompt for prompt, letters in encoded for _ in letters],
            [letter for _, letters in encoded for letter in letters],
        )
        answers: list[dict[str, Any]] = []
        for start in range(0, len(scored), number):
            logprobs = [logprob.total for logprob in scored[start : start + number]]
            first_token = dict(zip(alternatives, logprobs, strict=True))
            answers.append(
                {
                    "text": max(first_token, key=first_token.__getitem__),
                    "first_token": first_token,
                    "completion_tokens": 1,
                }
            )
        return answers
