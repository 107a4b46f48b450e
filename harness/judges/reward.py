"""A judge that is a reward model: it reads each reply with its conversation, and the larger reward wins.

It reads no judge prompt, so neither order nor wording matters. It can compare replies but not rate one: a reward has no
scale from 1 to 10.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.endpoints.base import Comparison, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.errors import UserError
from harness.files import store
from harness.judges.local import LocalJudge
from harness.types import TokenIds

if TYPE_CHECKING:
    from harness.engines.classifier import RewardModel

Encoded = tuple[TokenIds, TokenIds]  # a conversation, and a reply to it


class RewardJudge(LocalJudge):
    """A sequence classifier with one output as the judge of comparisons.

    The first reply is better with probability sigmoid(r_first - r_second), by the Bradley-Terry model that reward
    models are trained with (Ouyang et al. 2022, eq. 1). A request with alternatives gets the logarithms of this
    probability and its complement, any other one the verdict of the larger reward.
    """

    def __init__(self, model: "RewardModel", log: JudgeLog | None = None, name: str | None = None) -> None:
        """
        Args:
            log: where requests and replies are stored and looked up; None stores nothing.
            name: of the model, for people; else the model's own name.
        """
        super().__init__(name or model.name, model.weights_hash, log)
        self.model = model
        self._rewards: dict[str, float] = {}  # by the digest of an encoded chat

    def key(self, request: JudgeRequest) -> str:
        return store.digest({"weights": self.weights_hash, "alternatives": request.alternatives, **self.asked(request)})

    def asked(self, request: JudgeRequest) -> dict[str, Any]:
        return {"compared": asdict(self._compared(request))}

    def judge(self, requests: Sequence[JudgeRequest], keys: Sequence[str]) -> list[dict[str, Any]]:
        pairs = [self._encoded(self._compared(request)) for request in requests]
        self._read([chat for pair in pairs for chat in pair])
        return [self._reply(request, *pair) for request, pair in zip(requests, pairs, strict=True)]

    def _encoded(self, compared: Comparison) -> tuple[Encoded, Encoded]:
        prompt, (first, second) = self.model.encode_replies(compared.conversation, (compared.first, compared.second))
        return (prompt, first), (prompt, second)

    def _fits(self, chat: Encoded) -> bool:
        return sum(map(len, chat)) <= self.model.context_length

    def _read(self, chats: Sequence[Encoded]) -> None:
        """Get the rewards of chats that were not read before, such as the reference outputs for an earlier arm."""
        new = {key: chat for chat in chats if (key := store.digest(chat)) not in self._rewards and self._fits(chat)}
        rewards = self.model.rewards([prompt for prompt, _ in new.values()], [reply for _, reply in new.values()])
        self._rewards |= zip(new, rewards, strict=True)

    def _reply(self, request: JudgeRequest, first: Encoded, second: Encoded) -> dict[str, Any]:
        lengths = [sum(map(len, chat)) for chat in (first, second)]
        tokens = {"prompt_tokens": sum(lengths)}
        if not (self._fits(first) and self._fits(second)):
            limit = f"the context of the judge {self.model.context_length}"
            error = f"a reply has {max(lengths)} tokens with its conversation, and {limit}"
            return {"text": "", "error": error, **tokens}
        margin = self._rewards[store.digest(first)] - self._rewards[store.digest(second)]
        return {**_verdict(request, margin), **tokens}

    def _compared(self, request: JudgeRequest) -> Comparison:
        if request.compared is None:
            raise UserError(
                f"{self.name} is a reward model, which compares replies and cannot rate one: "
                "give a judge that writes text"
            )
        return request.compared


def _verdict(request: JudgeRequest, margin: float) -> dict[str, Any]:
    """Return the fields of a reply that state a margin r_first - r_second."""
    if request.alternatives:
        first, second = request.alternatives
        logprobs = {first: _log_sigmoid(margin), second: _log_sigmoid(-margin)}
        return {"text": first if margin >= 0 else second, "first_token": logprobs}
    assert request.compared, "a request without it is refused"
    first, second, tie = request.compared.verdicts
    return {"text": first if margin > 0 else second if margin < 0 else tie}


def _log_sigmoid(margin: float) -> float:
    return min(margin, 0.0) - math.log1p(math.exp(-abs(margin)))
