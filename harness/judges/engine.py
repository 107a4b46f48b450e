"""A judge that is an engine: a local model, so that everything works without a key."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePath

from harness import store
from harness.engines.base import Advance, Engine, Sampling, TokenIds
from harness.judges.base import JudgeReply, JudgeRequest
from harness.judges.log import JudgeLog

ROOM = 16  # tokens that a verdict needs at least, where that many are allowed
SHOWN_HASH = 8  # digits of the weights' hash in the judge's name: other weights are another judge


class EngineJudge:
    """Asks the model of an engine; replies are in the log as those of an endpoint are, and taken from there."""

    def __init__(self, engine: Engine, log: JudgeLog | None = None, seed: int = 0) -> None:
        self.engine, self.log, self.seed = engine, log, seed
        self.name = f"{PurePath(engine.name).name}@{engine.weights_hash[:SHOWN_HASH]}"

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        keys = [self._key(request) for request in requests]
        asked = {key: request for key, request in zip(keys, requests, strict=True)}  # equal requests are asked once
        replies = {key: reply for key in asked if self.log and (reply := self.log.reply(key))}
        prompts = {key: self.engine.encode_chat(asked[key].messages) for key in asked if key not in replies}
        kinds: dict[tuple, list[str]] = defaultdict(list)
        for key, prompt in prompts.items():
            request = asked[key]
            if len(prompt) > self.engine.context_length - min(request.max_tokens, ROOM):
                error = f"the request has {len(prompt)} tokens and the judge's context {self.engine.context_length}"
                replies[key] = JudgeReply(request.id, "", model=self.name, error=error)
            else:
                kinds[(request.temperature, request.max_tokens, request.alternatives)].append(key)
        for (temperature, max_tokens, alternatives), own in kinds.items():
            given = [prompts[key] for key in own]
            if alternatives:
                made = self._compare(given, alternatives)
            else:
                sampling = Sampling(max_tokens, temperature, seed=self.seed)
                made = [(each.text, None) for each in self.engine.generate(given, own, sampling)]
            for key, (text, first_token) in zip(own, made, strict=True):
                replies[key] = self._reply(key, asked[key], text, first_token)
        if advance:
            advance(len(requests))
        return [replace(replies[key], id=request.id) for key, request in zip(keys, requests, strict=True)]

    def _compare(self, prompts: Sequence[TokenIds], alternatives: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
        """The likeliest alternative, and the log-probability of each one's first token."""
        first = [self.engine.encode_completion(text)[:1] for text in alternatives]
        scored = iter(self.engine.logprobs([prompt for prompt in prompts for _ in first], first * len(prompts)))
        made = []
        for _ in prompts:
            logprobs = {text: next(scored).total for text in alternatives}
            made.append((max(logprobs, key=logprobs.get), logprobs))
        return made

    def _reply(self, key: str, request: JudgeRequest, text: str, first_token: dict[str, float] | None) -> JudgeReply:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        reply = JudgeReply(request.id, text, first_token, model=self.name, date=date)
        if self.log:
            row = {"key": key, "judge": self.name, "messages": list(request.messages), "date": date}
            self.log.write(row, reply)
        return reply

    def _key(self, request: JudgeRequest) -> str:
        return store.digest(
            {
                "weights": self.engine.weights_hash,
                "messages": list(request.messages),
                "temperature": request.temperature,
                "max_tokens": request.max_tokens,
                "alternatives": request.alternatives,
                "repeat": request.repeat,
                "seed": self.seed,
            }
        )
