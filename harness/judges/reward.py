"""A judge that is a reward model: it reads each reply with its conversation, and the larger reward wins.

It reads no judge prompt, so neither order nor wording matters. It can compare replies but not rate one: a reward has no
scale from 1 to 10.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.endpoints.base import Comparison, JudgeRequest
from harness.endpoints.log import JudgeLog
from harness.errors import UserError
from harness.files import store
from harness.judges.local import LocalJudge
from harness.types import TokenIds

if TYPE_CHECKING:
    from harness.engines.classifier import RewardModel


class EncodedChat(NamedTuple):
    """A conversation and a reply to it. key: digest of both."""

    key: str
    prompt: TokenIds
    reply: TokenIds

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.reply)


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
        self._rewards: dict[str, float] = {}  # by EncodedChat.key

    def key(self, request: JudgeRequest) -> str:
        return store.digest({"weights": self.weights_hash, "alternatives": request.alternatives, **self.asked(request)})

    def asked(self, request: JudgeRequest) -> dict[str, Any]:
        return {"compared": asdict(self._compared(request))}

    def judge(self, requests: Sequence[JudgeRequest], keys: Sequence[str]) -> list[dict[str, Any]]:
        pairs = [self._chats(self._compared(request)) for request in requests]
        self._read([chat for pair in pairs for chat in pair])
        return [self._reply(request, *pair) for request, pair in zip(requests, pairs, strict=True)]

    def _chats(self, compared: Comparison) -> list[EncodedChat]:
        prompt, replies = self.model.encode_replies(compared.conversation, (compared.first, compared.second))
        return [EncodedChat(store.digest([prompt, reply]), prompt, reply) for reply in replies]

    def _read(self, chats: Sequence[EncodedChat]) -> None:
        """Get the rewards of chats that fit and were not read before, as reference outputs were for an earlier arm."""
        fitting = [chat for chat in chats if chat.tokens <= self.model.context_length]
        new = {chat.key: chat for chat in fitting if chat.key not in self._rewards}
        rewards = self.model.rewards([chat.prompt for chat in new.values()], [chat.reply for chat in new.values()])
        self._rewards |= zip(new, rewards, strict=True)

    def _reply(self, request: JudgeRequest, first: EncodedChat, second: EncodedChat) -> dict[str, Any]:
        tokens = {"prompt_tokens": first.tokens + second.tokens}
        if first.key in self._rewards and second.key in self._rewards:
            return {**_verdict(request, self._rewards[first.key] - self._rewards[second.key]), **tokens}
        limit = f"the context of the judge {self.model.context_length}"
        error = f"a reply has {max(first.tokens, second.tokens)} tokens with its conversation, and {limit}"
        return {"text": "", "error": error, **tokens}

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
