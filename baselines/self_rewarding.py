"""Self-rewarding language models (Yuan et al. 2024): DPO on candidates that the policy itself has judged."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum
from statistics import fmean

from baselines.preference import best_against_worst
from baselines.ratings import Ratings, by_prompt, sample_candidates
from harness.engines.base import Completion
from harness.errors import UserError
from harness.experiment.search import BETA, LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.thoughts import spoken
from harness.training.examples import Example, TrainingOptions
from harness.training.losses import PreferenceObjective
from harness.types import Message, Prompt, TokenIds, question_text
from harness.work import sampled, sequences

KEPT = 0.95  # share of queries whose best and worst candidate differ, measured on the testbed
_POINTS = (
    "Below are a user's question and an answer to it. Give the answer points that add up to at most 5: one if it is "
    "about the question; one more if it deals with a large part of it; one more if it settles the basic matter in a "
    "useful way; one more if it is written from an assistant's view, clear, complete and well ordered; one more if an "
    "expert could not improve it.\n\nQuestion: {question}\n\nAnswer: {answer}\n\n"
)
WEIGHTED = "weighted"  # the one form in which no judgment is written
GENERAL_PROMPTS = {
    "additive": _POINTS + 'Say briefly why, and end with "Score: " and the number of points.',
    WEIGHTED: _POINTS + "Reply with the number of points alone, from 0 to 5.",
}
VERDICT_TOKENS = {"short": 5, "additive": 200, WEIGHTED: 1}  # expected length of a judgment
PROMPT_TOKENS = {"short": 14, "additive": 130, WEIGHTED: 125}  # length of the prompt, without question and answer
_SCORE = re.compile(r"Score:[\s*]*([-+]?\d+(?:\.\d+)?)", re.ASCII)
SCORES = {str(points): points for points in range(6)}


class SelfRewarding:
    """Pairs of the policy's highest and lowest rated candidates, by the policy's own ratings, in iterations."""

    name = "self-rewarding"
    summary = "DPO on the policy's own candidates, judged by the policy itself, in iterations"
    search_space: Space = {"learning_rate": LEARNING_RATE, "beta": BETA}

    @dataclass(frozen=True)
    class Options(TrainingOptions):
        """Options of self-rewarding.

        iterations: rounds of sampling, judging and training, each with an equal share of the budget.
        candidates: responses per prompt, of which the best and the worst become a pair.
        judge_samples: written ratings per response, which are averaged.
        judge_prompt: "short" (the testbed's form of the additive prompt); "additive"; or "weighted", for models that
            cannot write a judgment: the points 0 to 5, weighted by the probabilities that the policy gives to each.
        judge_max_new_tokens: longest written rating, in tokens.
        beta: how strongly the loss of DPO keeps the policy close to the reference.
        """

        iterations: int = 3
        candidates: int = 4
        judge_samples: int = 3
        judge_prompt: str = "short"
        judge_max_new_tokens: int = 8
        beta: float = 0.2

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.judge_prompt not in VERDICT_TOKENS:
                raise UserError(f"judge_prompt must be one of {', '.join(VERDICT_TOKENS)}, not {self.judge_prompt!r}")
            if min(self.iterations, self.judge_samples) < 1 or self.candidates < 2:
                raise UserError("iterations and judge_samples must be at least 1, candidates at least 2")
            if self.judge_max_new_tokens < VERDICT_TOKENS[self.judge_prompt]:
                raise UserError(
                    f"judge_max_new_tokens={self.judge_max_new_tokens} cuts judgments off before their score: "
                    f"the {self.judge_prompt} prompt needs {VERDICT_TOKENS[self.judge_prompt]} or more"
                )

    def stages(self, options: Options) -> list[Stage]:
        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            candidates = sample_candidates(workbench, prompts, options.candidates)
            if options.judge_prompt == WEIGHTED:
                ratings = weighted_ratings(workbench, prompts, candidates)
            else:
                ratings = written_ratings(workbench, prompts, candidates, options)
            return best_against_worst(workbench, prompts, candidates, ratings)

        def expect(lengths: Lengths) -> QueryCost:
            form = options.judge_prompt
            judged = lengths.prompt + lengths.completion + PROMPT_TOKENS[form]
            if form == WEIGHTED:
                rating = sequences(judged, *[VERDICT_TOKENS[form]] * len(SCORES))
            else:
                rating = sampled(judged, *[VERDICT_TOKENS[form]] * options.judge_samples)
            return QueryCost(
                sampled(lengths.prompt, *[lengths.completion] * options.candidates) + rating * options.candidates,
                sequences(lengths.prompt, lengths.completion, lengths.completion),
                KEPT,
            )

        objective = PreferenceObjective(loss="dpo", beta=options.beta)
        share = 1 / options.iterations
        return [
            Stage(f"iteration-{number}", share, collect, expect, objective, options)
            for number in range(1, options.iterations + 1)
        ]

    def supervision(self, options: Options) -> str:
        return "its own judgments"


def written_ratings(
    workbench: Workbench,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Completion]],
    options: SelfRewarding.Options,
) -> Ratings:
    """The policy's rating of each candidate, from 0 to 5: the mean of its readable judgments, else None."""
    chats: list[list[Message]] = []
    items: list[str] = []
    for prompt, row in zip(prompts, candidates, strict=True):
        for index, candidate in enumerate(row):
            text = judge_prompt(question_text(prompt.messages), candidate.text, options.judge_prompt)
            if parse_score(candidate.text) is not None:
                workbench.count("judged answers that hold a score")
            chats += [[{"role": "user", "content": text}]] * options.judge_samples
            items += [f"{prompt.id}/candidate-{index}/judge-{number}" for number in range(options.judge_samples)]
    sampling = replace(workbench.sampling, max_new_tokens=options.judge_max_new_tokens)
    judgments = [parse_score(reply.text) for reply in workbench.sample("judge", chats, items, sampling)]
    for score in judgments:
        if score is None:
            workbench.count("unparsed judgments")
    samples = options.judge_samples
    ratings = [mean_score(judgments[start : start + samples]) for start in range(0, len(judgments), samples)]
    return by_prompt(ratings, candidates)


def weighted_ratings(
    workbench: Workbench, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Completion]]
) -> Ratings:
    """The policy's rating of each candidate: the sum of s p(s) over the scores s from 0 to 5 (Liu et al. 2023, G-Eval,
    equation 1), where p(s) is the policy's probability of the reply s, normalized over the six. None for a candidate
    that is unfinished, or whose judge prompt exceeds the context; these are not read.
    """
    engine = workbench.engine
    asked: list[bool] = []  # of each candidate, whether it is read
    queries: list[TokenIds] = []
    replies: list[TokenIds] = []
    for prompt, row in zip(prompts, candidates, strict=True):
        for candidate in row:
            text = judge_prompt(question_text(prompt.messages), candidate.text, WEIGHTED)
            query, points = engine.encode_alternatives([{"role": "user", "content": text}], list(SCORES))
            fits = len(query) + max(map(len, points)) <= engine.context_length
            workbench.count("prompt longer than the context", candidate.finished and not fits)
            asked.append(candidate.finished and fits)
            if asked[-1]:
                queries += [query] * len(points)
                replies += points
    found = iter(workbench.score("judge", queries, replies))
    ratings = [expected_score([next(found).total for _ in SCORES]) if read else None for read in asked]
    return by_prompt(ratings, candidates)


def judge_prompt(question: str, answer: str, form: str) -> str:
    """The message that asks the policy to judge; braces inside question and answer stay as they are."""
    if form == "short":
        from harness.testbed.judging import rate_prompt

        return rate_prompt(question, answer)
    before, after = GENERAL_PROMPTS[form].split("{answer}")
    return before.replace("{question}", question) + answer + after


def parse_score(text: str) -> int | None:
    """The last "Score: n" where n is a whole number from 0 to 5, else None. Scores in a thought do not count."""
    scores = _SCORE.findall(spoken(text) or "")
    return SCORES.get(scores[-1]) if scores else None


def mean_score(scores: Sequence[int | None]) -> float | None:
    """The mean of the scores that are not None; None if there are none."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def expected_score(logprobs: Sequence[float]) -> float:
    """The mean of the scores 0, 1, ... weighted by exp(logprobs), whatever their sum."""
    highest = max(logprobs)
    weights = [exp(logprob - highest) for logprob in logprobs]
    return fsum(score * weight for score, weight in enumerate(weights)) / fsum(weights)
