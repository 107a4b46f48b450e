"""Writers of principles: the policy itself, another model on this machine, or a model behind an endpoint.

A writer answers requests and charges its tokens to the ledger's role "principles", at 2 N each with its own N. Models
other than the policy decode greedily: a query's principles are then the same in every stage, seed and method, and an
endpoint has to answer each request only once.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.engines.base import Sampling, TrainableEngine
from harness.errors import UserError
from harness.judges.base import Judge
from harness.methods.base import Workbench
from harness.models.folder import model_folder
from harness.progress import progress
from harness.types import Message
from harness.work import Nominal, Work

if TYPE_CHECKING:
    from harness.endpoints.client import OpenAIJudge
    from harness.engines.transformers import TransformersEngine

ROLE = "principles"  # in the ledger
LOG = "principles"  # folder of the endpoints' requests and replies, in the folder that runs share
COUNTED_HERE = "principles whose tokens the policy's tokenizer counted"  # name of the event


class Writer(Protocol):
    """A model that writes principles."""

    def write(self, workbench: Workbench, chats: Sequence[Sequence[Message]], items: Sequence[str]) -> list[str | None]:
        """Return one reply per chat, in order; None where it is missing or was cut off.

        Args:
            items: keys of the sampling noise, as in `Workbench.sample`.
        """
        ...


@dataclass(frozen=True)
class PolicyWriter:
    """The stage's generating model, sampled like its responses. tokens: the longest reply."""

    tokens: int

    def write(self, workbench: Workbench, chats: Sequence[Sequence[Message]], items: Sequence[str]) -> list[str | None]:
        sampling = replace(workbench.sampling, max_new_tokens=min(self.tokens, workbench.sampling.max_new_tokens))
        replies = workbench.sample(ROLE, chats, items, sampling)
        return [reply.text if reply.finished else None for reply in replies]


@dataclass(frozen=True)
class EngineWriter:
    """Another model on this machine. tokens: the longest reply."""

    engine: TrainableEngine
    tokens: int

    def write(self, workbench: Workbench, chats: Sequence[Sequence[Message]], items: Sequence[str]) -> list[str | None]:
        longest = self.engine.context_length - 1
        fitting = [place for place, chat in enumerate(chats) if len(self.engine.encode_chat(chat)) <= longest]
        written = replace(workbench, engine=self.engine).sample(
            ROLE, [chats[place] for place in fitting], [items[place] for place in fitting], Sampling(self.tokens)
        )
        replies: list[str | None] = [None] * len(chats)
        for place, completion in zip(fitting, written, strict=True):
            replies[place] = completion.text if completion.finished else None
        return replies


@dataclass(frozen=True)
class EndpointWriter:
    """A model behind an endpoint, through the same client as judges.

    parameters: N for accounting, which endpoints do not report.
    tokens: the longest reply.
    """

    client: Judge
    parameters: float
    tokens: int

    def write(self, workbench: Workbench, chats: Sequence[Sequence[Message]], items: Sequence[str]) -> list[str | None]:
        """Return one reply per chat; stored replies are charged like new ones, so that the cost of a method does not
        depend on what ran before it.

        Raises:
            UserError: when the endpoint cannot be reached, or refuses the key.
        """
        requests = [
            JudgeRequest(f"{workbench.stage}/{item}", tuple(chat), max_tokens=self.tokens)
            for item, chat in zip(items, chats, strict=True)
        ]
        start = time.perf_counter()
        with progress(f"{workbench.label} {workbench.stage}: {ROLE}", len(requests)) as advance:
            try:
                replies = self.client.complete(requests, advance)
            except UserError as error:
                raise UserError(f"principles could not be written by {self.client.name!r}: {error}") from None
        usages = [_usage(workbench, chat, reply) for chat, reply in zip(chats, replies, strict=True)]
        prompt_tokens, generated_tokens = sum(read for read, _ in usages), sum(written for _, written in usages)
        workbench.ledger.charge(
            ROLE,
            Nominal(self.parameters).forward(Work(prompt_tokens, generated_tokens)),
            calls=len(requests),
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
            seconds=time.perf_counter() - start,
        )
        workbench.keep(
            {"role": ROLE, "item": request.id, "prompt_tokens": read, "completion_tokens": generated}
            for request, (read, generated) in zip(requests, usages, strict=True)
        )
        return [
            None if reply.error or generated >= self.tokens else reply.text
            for reply, (_, generated) in zip(replies, usages, strict=True)
        ]


def _usage(workbench: Workbench, chat: Sequence[Message], reply: JudgeReply) -> tuple[int, int]:
    """Tokens read and generated; where the endpoint does not report them, the policy's tokenizer counts them."""
    if reply.error or reply.prompt_tokens:
        return reply.prompt_tokens, reply.completion_tokens
    workbench.count(COUNTED_HERE)
    prompt, (written,) = workbench.engine.encode_replies(chat, [reply.text])
    return len(prompt), len(written)


@cache
def load_engine(model: str, device: str, batch_size: int, day: date) -> "TransformersEngine":
    """Load the model of a folder or hub id, once per process.

    Args:
        day: the date that its chat template writes, where it writes one.

    Raises:
        UserError: when it is not on this machine or cannot be used.
    """
    from harness.engines.transformers import TransformersEngine

    return TransformersEngine.load(str(model_folder(model)), device=device, batch_size=batch_size, day=day)


@cache
def connect(model: str, url: str, shared: Path | None) -> "OpenAIJudge":
    """The client of a model behind an endpoint; replies are logged, and a logged request is not sent again."""
    from harness.endpoints.client import OpenAIJudge
    from harness.endpoints.log import JudgeLog

    return OpenAIJudge(model, url, log=JudgeLog(shared / LOG) if shared else None, keep_cut=True)
