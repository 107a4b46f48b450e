"""A judge that is an engine: a local model, so that everything works without an API key."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.engines.base import Engine, Sampling
from harness.files import store
from harness.progress import Advance
from harness.types import TokenIds

CHUNK = 256  # requests whose replies are stored together: the most that an interruption loses
SHOWN_HASH = 8  # digits of the weights' hash in the judge's name


class EngineJudge:
    """A local model as the judge. Its name includes a hash of the weights, so scores of different weights are never
    ranked together."""

    endpoint = None
    price = None

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
            name: of the model, for people; else the last part of the engine's name.
            max_tokens: of each text reply, instead of the request's.
        """
        self.engine, self.log, self.seed, self.max_tokens = engine, log, seed, max_tokens
        self.name = f"{name or PurePath(engine.name).name}@{engine.weights_hash[:SHOWN_HASH]}"

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        if self.max_tokens:
            requests = [
                request if request.alternatives else replace(request, max_tokens=self.max_tokens)
                for request in requests
            ]
        keys = [self.key(request) for request in requests]
        times = Counter(keys)
        replies: dict[str, JudgeReply] = {}
        waiting: dict[str, JudgeRequest] = {}  # equal requests are asked once
        for key, request in zip(keys, requests, strict=True):
            if row := self.log and self.log.find(key):
                replies[key] = JudgeReply.from_json(row["reply"])
            else:
                waiting[key] = request
        if advance and replies:
            advance(sum(times[key] for key in replies))
        for chunk in _chunks(waiting):
            judged = self._judge(list(chunk.values()), list(chunk))
            if self.log:
                self.log.append([self._row(key, chunk[key], reply) for key, reply in judged.items()])
            replies |= judged
            if advance:
                advance(sum(times[key] for key in chunk))
        return [replace(replies[key], id=request.id) for key, request in zip(keys, requests, strict=True)]

    def _judge(self, requests: Sequence[JudgeRequest], keys: Sequence[str]) -> dict[str, JudgeReply]:
        """Return replies, by key, to requests that differ only in their messages and repeats."""
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
        date = datetime.now(UTC).isoformat(timespec="seconds")
        replies = {}
        for place, (key, request, prompt) in enumerate(zip(keys, requests, prompts, strict=True)):
            facts: dict[str, Any] = known.get(place) or {
                "text": "",
                "error": f"the request has {len(prompt)} tokens and the judge's context {engine.context_length}",
            }
            replies[key] = JudgeReply(
                request.id,
                model=self.name,
                fingerprint=engine.weights_hash,
                date=date,
                prompt_tokens=len(prompt),
                **facts,
            )
        return replies

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

    def key(self, request: JudgeRequest) -> str:
        """Return the digest of everything that changes the answer; also the key of its sampling noise."""
        facts = {name: value for name, value in asdict(request).items() if name != "id"}
        return store.digest({"weights": self.engine.weights_hash, "seed": self.seed, **facts})

    def _row(self, key: str, request: JudgeRequest, reply: JudgeReply) -> dict[str, Any]:
        """Return a row of the log like an endpoint's, without an endpoint or a cost."""
        return {
            "key": key,
            "id": request.id,
            "repeat": request.repeat,
            "alternatives": request.alternatives,
            "date": reply.date,
            "endpoint": None,
            "request": {
                "model": self.name,
                "messages": list(request.messages),
                "temperature": request.temperature,
                "max_tokens": request.max_tokens,
                "seed": self.seed,
            },
            "reply": None if reply.error else asdict(reply),
            "kept": not reply.error,  # even if it was cut: the same engine would cut it again
            "error": reply.error,
            "usd": 0.0,
        }


def _chunks(waiting: dict[str, JudgeRequest]) -> Iterator[dict[str, JudgeRequest]]:
    """Yield at most CHUNK requests that one call of the engine can serve."""
    kinds: dict[tuple[float, int, tuple[str, ...]], list[str]] = {}
    for key, request in waiting.items():
        kinds.setdefault((request.temperature, request.max_tokens, request.alternatives), []).append(key)
    for keys in kinds.values():
        for start in range(0, len(keys), CHUNK):
            yield {key: waiting[key] for key in keys[start : start + CHUNK]}
