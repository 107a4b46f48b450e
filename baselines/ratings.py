"""Candidates of the policy, and what a judge or a reward model thinks of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

from harness.engines.base import Completion
from harness.errors import UserError
from harness.judges.base import complete
from harness.judges.rating import rating_request
from harness.judges.shares import check_ratings
from harness.judges.verdicts import has_rating, rating_of
from harness.methods.base import Lengths, QueryCost, Workbench
from harness.models.folder import model_folder
from harness.models.weights import parameter_count
from harness.progress import progress
from harness.training.examples import TrainingOptions
from harness.types import Prompt, TokenIds
from harness.work import Nominal, Work, sampled, total

if TYPE_CHECKING:
    from harness.engines.classifier import RewardModel

RATING_TOKENS, REPLY_TOKENS = 250, 200  # length of a request to rate (without question and answer), and of the reply
REWARD = "reward"  # in the ledger
Ratings = list[list[float | None]]  # of each prompt's candidates, in order; None where there is none


@dataclass(frozen=True)
class RatedOptions(TrainingOptions):
    """Options of methods that rate candidates of the policy.

    candidates: responses per prompt.
    reward_model: folder or hub id of a reward model (a sequence classifier with one output) that rates them; None asks
        the experiment's judge.
    """

    candidates: int = 4
    reward_model: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2:
            raise UserError(f"candidates must be at least 2, not {self.candidates}")

    @property
    def supervision(self) -> str:
        return (
            f"reward model ({self.reward_model.rstrip('/').rpartition('/')[2]})" if self.reward_model else "the judge"
        )


def sample_candidates(workbench: Workbench, prompts: Sequence[Prompt], number: int) -> list[list[Completion]]:
    """Sample `number` completions of each prompt."""
    completions = workbench.sample(
        "generate",
        [prompt.chat for prompt in prompts for _ in range(number)],
        [f"{prompt.id}/candidate-{index}" for prompt in prompts for index in range(number)],
    )
    return [completions[start : start + number] for start in range(0, len(completions), number)]


def rated_candidates(row: Sequence[Completion], ratings: Sequence[float | None]) -> list[tuple[float, Completion]]:
    """The candidates of a prompt that are finished, not empty and rated, with their ratings."""
    return [
        (rating, candidate)
        for rating, candidate in zip(ratings, row, strict=True)
        if rating is not None and candidate.finished and candidate.text.strip()
    ]


def rate(
    workbench: Workbench, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Completion]], options: RatedOptions
) -> Ratings:
    """Ratings by the reward model of the options, or by the judge."""
    if options.reward_model:
        return reward_ratings(workbench, prompts, candidates, options.reward_model)
    return judge_ratings(workbench, prompts, candidates)


def judge_ratings(
    workbench: Workbench, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Completion]]
) -> Ratings:
    """Ratings from 1 to 10 by the experiment's judge, charged to the role "judge".

    Raises:
        UserError: when there is no judge, or too many of its replies have no rating.
    """
    if workbench.judge is None:
        raise UserError("rating the policy's replies needs a judge: give --judge-model (and --judge-url)")
    requests = [
        rating_request(f"{prompt.id}/{index}", prompt.messages, candidate.text)
        for prompt, row in zip(prompts, candidates, strict=True)
        for index, candidate in enumerate(row)
    ]
    start = time.perf_counter()
    with progress(f"{workbench.label} {workbench.stage}: judge", len(requests)) as advance:
        replies = complete(workbench.judge, requests, has_rating, workbench.rejudge, advance)
    judged = total(sampled(reply.prompt_tokens, reply.completion_tokens) for reply in replies)
    workbench.ledger.charge(
        "judge",
        workbench.judge_cost.forward(judged) if workbench.judge_cost else 0.0,
        calls=len(requests),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        generated_tokens=sum(reply.completion_tokens for reply in replies),
        seconds=time.perf_counter() - start,
    )
    workbench.keep(
        {
            "role": "judge",
            "item": request.id,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        for request, reply in zip(requests, replies, strict=True)
    )
    ratings = [rating_of(reply) for reply in replies]
    for reply, rating in zip(replies, ratings, strict=True):
        if rating is None:
            workbench.count("failed judgments" if reply.error else "unparsed judgments")
    check_ratings(list(zip(replies, ratings, strict=True)), workbench.most_missing, f"{workbench.stage}-examples")
    return by_prompt(ratings, candidates)


def reward_ratings(
    workbench: Workbench, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Completion]], name: str
) -> Ratings:
    """Rewards of a reward model, charged to the role "reward" at 2 N per token; None for a candidate that is unfinished
    or that its context cannot hold, which are not read.

    Raises:
        UserError: when the reward model cannot be used.
    """
    model = _load_reward_model(name, workbench.engine.local.model.device.type, workbench.engine.day)
    chats: list[tuple[TokenIds, TokenIds] | None] = []  # of each candidate; None where it is not read
    for prompt, row in zip(prompts, candidates, strict=True):
        query, replies = model.encode_replies(prompt.chat, [candidate.text for candidate in row])
        for candidate, reply in zip(row, replies, strict=True):
            fits = len(query) + len(reply) <= model.context_length
            workbench.count("replies longer than the reward model's context", candidate.finished and not fits)
            chats.append((query, reply) if candidate.finished and fits else None)
    read = list(dict.fromkeys(chat for chat in chats if chat is not None))  # equal candidates are read once
    start = time.perf_counter()
    with progress(f"{workbench.label} {workbench.stage}: {REWARD}", len(read)) as advance:
        found = model.rewards(*map(list, zip(*read, strict=True)), advance) if read else []
    rewards = dict(zip(read, found, strict=True))
    tokens = sum(len(query) + len(reply) for query, reply in read)
    workbench.ledger.charge(
        REWARD,
        Nominal(model.parameters).forward(Work(tokens)),
        calls=len(read),
        prompt_tokens=tokens,
        seconds=time.perf_counter() - start,
    )
    workbench.keep({"role": REWARD, "prompt_ids": (), "read_ids": (*query, *reply)} for query, reply in read)
    return by_prompt([None if chat is None else rewards[chat] for chat in chats], candidates)


@cache
def _load_reward_model(name: str, device: str, day: date) -> "RewardModel":
    from harness.engines.classifier import RewardModel

    return RewardModel.load(model_folder(name), device, day=day)


def by_prompt(ratings: Sequence[float | None], candidates: Sequence[Sequence[Completion]]) -> Ratings:
    """The ratings of all candidates, in order, as a list for each prompt."""
    flat = iter(ratings)
    return [[next(flat) for _ in row] for row in candidates]


def judging(lengths: Lengths, number: int) -> Work:
    """Expected work of the judge for the candidates of a prompt."""
    return sampled(RATING_TOKENS + lengths.prompt + lengths.completion, REPLY_TOKENS) * number


def rated_cost(lengths: Lengths, options: RatedOptions, trained: Work, kept: float) -> QueryCost:
    """Expected cost of a query whose candidates are sampled and rated. trained, kept: see `QueryCost`."""
    collected = sampled(lengths.prompt, *[lengths.completion] * options.candidates)
    if not options.reward_model:
        return QueryCost(collected, trained, kept, judged=judging(lengths, options.candidates))
    parameters = parameter_count(model_folder(options.reward_model))
    read = Work(options.candidates * (lengths.prompt + lengths.completion))
    return QueryCost(collected, trained, kept, other_flops=Nominal(parameters).forward(read))
