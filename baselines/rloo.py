"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740) on prompts whose answers can be checked, in rounds.

The objective is that of TRL's RLOOTrainer with beta 0 (no penalty for leaving the reference). Replies are sampled once
per round rather than per update, so that the clipped ratio to the policy of the round's start matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.ratings import sample_candidates
from harness.benchmarks.math_answers import Grader
from harness.engines.base import Completion
from harness.errors import UserError
from harness.experiment.search import LEARNING_RATE, LogUniform, Space
from harness.files.extras import check_installed
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.training.losses import RLOOObjective
from harness.types import Prompt
from harness.work import sampled, sequences

KEPT = 0.72  # share of queries with an answer that have right and wrong replies, measured on the testbed


class RLOO:
    """-min(c A, clip(c) A) of each of k replies, A its reward less the mean reward of the others."""

    name = "rloo"
    summary = "REINFORCE leave-one-out on prompts with an answer, which the checker of the MATH benchmark compares"
    search_space: Space = {"learning_rate": LEARNING_RATE, "epsilon": LogUniform(0.05, 0.5)}

    @dataclass(frozen=True)
    class Options(TrainingOptions):
        """Options of RLOO.

        rounds: of sampling, checking and training, each with an equal share of the budget.
        candidates: replies to each prompt.
        epsilon: the ratio of a reply's probabilities is clipped to 1 - epsilon and 1 + epsilon.
        """

        rounds: int = 3
        candidates: int = 4
        epsilon: float = 0.2

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.rounds < 1 or self.candidates < 2:
                raise UserError("rounds must be at least 1, candidates at least 2")
            if not 0 < self.epsilon < 1:
                raise UserError(f"epsilon must be above 0 and below 1, not {self.epsilon}")

    def stages(self, options: Options) -> list[Stage]:
        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            check_installed(self.name, ["math_verify"])
            asked = [prompt for prompt in prompts if prompt.answer is not None]
            workbench.discard("no answer to check", len(prompts) - len(asked))
            candidates = sample_candidates(workbench, asked, options.candidates)
            with Grader() as grader:
                rewards = [rewards_of(grader, row, prompt) for row, prompt in zip(candidates, asked, strict=True)]
            workbench.count("answers that could not be compared in time", grader.gave_up)
            return examples_of(workbench, asked, candidates, rewards)

        def expect(lengths: Lengths) -> QueryCost:
            completions = [lengths.completion] * options.candidates
            return QueryCost(sampled(lengths.prompt, *completions), sequences(lengths.prompt, *completions), KEPT)

        objective = RLOOObjective(options.candidates, options.epsilon)
        return [
            Stage(f"round-{number}", 1 / options.rounds, collect, expect, objective, options, rows="answers")
            for number in range(1, options.rounds + 1)
        ]

    def supervision(self, options: Options) -> str:
        return "checked answers"


def rewards_of(grader: Grader, replies: Sequence[Completion], prompt: Prompt) -> list[float]:
    """1 for a finished reply whose answer equals that of the prompt, 0 for others."""
    return [
        grader.grade(reply.text, prompt.answer or "")["math_verify"] if reply.finished else 0.0 for reply in replies
    ]


def leave_one_out(rewards: Sequence[float]) -> tuple[float, ...]:
    """Each reward less the mean of the others.

    >>> leave_one_out([1.0, 0.0, 0.0])
    (1.0, -0.5, -0.5)
    """
    return tuple(reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards)


def examples_of(
    workbench: Workbench,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Completion]],
    rewards: Sequence[Sequence[float]],
) -> list[Example]:
    """An example of each prompt whose replies differ in their rewards: others have no gradient."""
    examples = []
    for prompt, row, found in zip(prompts, candidates, rewards, strict=True):
        if not all(reply.token_ids for reply in row):
            workbench.discard("empty")
            continue
        if len(set(found)) == 1:
            workbench.discard("all replies right" if found[0] else "all replies wrong")
            continue
        query, replies = workbench.encode_answers(prompt.chat, row)
        record = {
            **prompt.record,
            "answer": prompt.answer,
            "completions": [reply.text for reply in row],
            "rewards": list(found),
        }
        sequences = tuple(TokenSequence(query, reply) for reply in replies)
        examples.append(Example(prompt.id, sequences, record, leave_one_out(found)))
    return examples
