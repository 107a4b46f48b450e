"""A model behind an OpenAI-compatible chat endpoint, through the same client that judges use."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.endpoints.base import JudgeRequest
from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.memory import Limit
from harness.errors import UserError
from harness.files import store
from harness.progress import Advance
from harness.types import Chat, Conversation, Reply, TokenIds

if TYPE_CHECKING:
    from harness.endpoints.client import OpenAIJudge


class EndpointEngine:
    """A model whose weights and tokens are not known here; implements `harness.engines.base.Engine`.

    Token ids are the bytes of a conversation's JSON and of a completion's text, so lengths in samples are in bytes. The
    noise is the endpoint's: another seed asks again, but the seed is not sent.
    """

    parameters = 0  # unknown: its computation is on no ledger
    context_length = sys.maxsize  # the endpoint refuses what is too long
    chat = None
    local = None

    def __init__(self, client: "OpenAIJudge", batch_size: int = 128) -> None:
        self.client, self.name, self.batch_size = client, client.name, batch_size
        self.weights_hash = store.digest({"endpoint": client.endpoint, "model": client.name})
        self.generates = Limit(batch_size, "prompts", self.name)
        self.scores = Limit(batch_size, "sequences", self.name)

    @property
    def unit(self) -> int:
        return self.batch_size

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        return tuple(json.dumps(Chat.of(chat).messages).encode())

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        raise self._gives_no_logprobs()

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        raise self._gives_no_logprobs()

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return one completion per prompt, in order; the client's log has those of earlier calls.

        Raises:
            UserError: when the endpoint cannot be reached, or gives no answer to a prompt after all retries.
        """
        requests = [
            JudgeRequest(
                item,
                tuple(json.loads(bytes(prompt))),
                sampling.temperature,
                sampling.max_new_tokens,
                repeat=sampling.seed if sampling.temperature else 0,
            )
            for item, prompt in zip(items, prompts, strict=True)
        ]
        replies = self.client.complete(requests, advance)
        if failed := [reply for reply in replies if reply.error]:
            raise UserError(
                f"{self.name} at {self.client.endpoint} gave no answer to {len(failed)} of {len(replies)} prompts, "
                f"such as {failed[0].id} ({failed[0].error}): run the same command again to retry these"
            )
        return [
            Completion(tuple(reply.text.encode("utf-8", "replace")), reply.text, reply.finish_reason != "length")
            for reply in replies
        ]

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        raise self._gives_no_logprobs()

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        raise self._gives_no_logprobs()

    def _gives_no_logprobs(self) -> UserError:
        return UserError(f"{self.name} is behind an endpoint, which gives no log-probabilities of given texts")

    def release(self) -> None:
        """Do nothing: nothing is held."""
