"""A judge that runs in this process: what it replied is stored, so that nothing is judged twice."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.progress import Advance

CHUNK = 256  # requests whose replies are stored together: the most that an interruption loses
SHOWN_HASH = 8  # digits of the weights' hash in the judge's name


class LocalJudge(ABC):
    """A model of this process as the judge. Its name includes a hash of the weights, so scores of different weights are
    never ranked together."""

    endpoint = None
    price = None

    def __init__(self, name: str, weights_hash: str, log: JudgeLog | None) -> None:
        """
        Args:
            name: of the model; its last part is shown.
            log: where requests and replies are stored and looked up; None stores nothing.
        """
        self.name = f"{PurePath(name).name}@{weights_hash[:SHOWN_HASH]}"
        self.weights_hash = weights_hash
        self.log = log

    @abstractmethod
    def key(self, request: JudgeRequest) -> str:
        """Return the digest of everything that changes the reply."""

    @abstractmethod
    def asked(self, request: JudgeRequest) -> dict[str, Any]:
        """Return what the log keeps of a request."""

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest], keys: Sequence[str]) -> list[dict[str, Any]]:
        """Return the fields of each reply that depend on the request, for requests that differ only in what is judged.

        Args:
            keys: of the requests.
        """

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
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
            date = datetime.now(UTC).isoformat(timespec="seconds")
            judged = {
                key: JudgeReply(request.id, model=self.name, fingerprint=self.weights_hash, date=date, **facts)
                for (key, request), facts in zip(
                    chunk.items(), self.judge(list(chunk.values()), list(chunk)), strict=True
                )
            }
            if self.log:
                self.log.append([self._row(key, chunk[key], reply) for key, reply in judged.items()])
            replies |= judged
            if advance:
                advance(sum(times[key] for key in chunk))
        return [replace(replies[key], id=request.id) for key, request in zip(keys, requests, strict=True)]

    def _row(self, key: str, request: JudgeRequest, reply: JudgeReply) -> dict[str, Any]:
        """Return a row of the log like an endpoint's, without an endpoint or a cost."""
        return {
            "key": key,
            "id": request.id,
            "repeat": request.repeat,
            "alternatives": request.alternatives,
            "date": reply.date,
            "endpoint": None,
            "request": {"model": self.name, **self.asked(request)},
            "reply": None if reply.error else asdict(reply),
            "kept": not reply.error,  # even if it was cut: the same model would cut it again
            "error": reply.error,
            "usd": 0.0,
        }


def _chunks(waiting: dict[str, JudgeRequest]) -> Iterator[dict[str, JudgeRequest]]:
    """Yield at most CHUNK requests that one call of the model can serve."""
    kinds: dict[tuple[float, int, tuple[str, ...]], list[str]] = {}
    for key, request in waiting.items():
        kinds.setdefault((request.temperature, request.max_tokens, request.alternatives), []).append(key)
    for keys in kinds.values():
        for start in range(0, len(keys), CHUNK):
            yield {key: waiting[key] for key in keys[start : start + CHUNK]}
