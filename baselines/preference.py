"""Pairs for preference losses: labelled pairs from a file, or candidates ranked by a judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from baselines.ratings import judge_ratings, judging, rated_candidates, sample_candidates
from harness.engines.base import Completion
from harness.errors import UserError
from harness.experiment.search import BETA, LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, Objective, TokenSequence, TrainingOptions
from harness.types import Prompt
from harness.work import Work, sampled, sequences

SOURCES = ("offline", "on-policy")
SPACE: Space = {"learning_rate": LEARNING_RATE, "beta": BETA}
Relabel = Callable[[Workbench, Example], Example | None]  # another order of a pair; None where it has none (discarded)
KEPT_RANKED = 0.89  # share of queries whose candidates are not all rated the same, measured on the testbed


@dataclass(frozen=True)
class PreferenceOptions(TrainingOptions):
    """Options of methods that train on pairs.

    data: "offline" (labelled pairs from a file) or "on-policy" (candidates of the policy, ranked by the judge).
    candidates: how many responses per prompt the judge ranks.
    beta: how strongly the loss keeps the policy close to the reference.
    """

    data: str = "offline"
    candidates: int = 4
    beta: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in SOURCES:
            raise UserError(f"data must be one of {', '.join(SOURCES)}, not {self.data!r}")
        if self.candidates < 2:
            raise UserError(f"candidates must be at least 2, not {self.candidates}")


def preference_stage(options: PreferenceOptions, objective: Objective, relabel: Relabel | None = None) -> Stage:
    """The single stage of a method that trains on pairs from either source.

    Args:
        relabel: gives each pair another order, for controls.
    """
    offline = options.data == "offline"

    def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
        pairs = _labelled(workbench, prompts) if offline else _ranked(workbench, prompts, options.candidates)
        if relabel is None:
            return pairs
        return [pair for given in pairs if (pair := relabel(workbench, given)) is not None]

    if offline:
        return Stage("policy", 1.0, collect, _expect_labelled, objective, options, labelled=True)

    def expect(lengths: Lengths) -> QueryCost:
        return QueryCost(
            sampled(lengths.prompt, *[lengths.completion] * options.candidates),
            pair_work(lengths),
            KEPT_RANKED,
            judged=judging(lengths, options.candidates),
        )

    return Stage("policy", 1.0, collect, expect, objective, options, judged=True)


def supervision(options: PreferenceOptions) -> str:
    return "labelled pairs" if options.data == "offline" else "the judge"


def swapped(pair: Example) -> Example:
    """The pair with chosen and rejected exchanged, in its record too."""
    other = {"chosen": "rejected", "rejected": "chosen", "chosen_rating": "rejected_rating"}
    other |= {name: turned for turned, name in other.items()}
    record = {name: pair.record[other.get(name, name)] for name in pair.record}
    return replace(pair, sequences=pair.sequences[::-1], record=record)


def _expect_labelled(lengths: Lengths) -> QueryCost:
    return QueryCost(Work(), pair_work(lengths), 1.0)


def pair_work(lengths: Lengths) -> Work:
    return sequences(lengths.prompt, lengths.completion, lengths.completion)


def _labelled(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
    examples = []
    for prompt in prompts:
        query, replies = workbench.engine.encode_replies(prompt.chat, prompt.pair)
        if replies[0] == replies[1]:
            workbench.discard("equal responses")
            continue
        record = {**prompt.record, "chosen": prompt.chosen, "rejected": prompt.rejected}
        examples.append(Example(prompt.id, tuple(TokenSequence(query, reply) for reply in replies), record))
    return examples


def _ranked(workbench: Workbench, prompts: Sequence[Prompt], number: int) -> list[Example]:
    candidates = sample_candidates(workbench, prompts, number)
    return best_against_worst(workbench, prompts, candidates, judge_ratings(workbench, prompts, candidates))


def best_against_worst(
    workbench: Workbench,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Completion]],
    ratings: Sequence[Sequence[float | None]],
) -> list[Example]:
    """Pair the highest rated candidate with the lowest rated one, for each prompt where ratings and responses differ.

    An unfinished candidate, or one without a rating (None), is left out; it never counts as the lowest.
    """
    examples = []
    for prompt, row, rated in zip(prompts, candidates, ratings, strict=True):
        known = rated_candidates(row, rated)
        if len(known) < 2:
            workbench.discard("fewer than two rated candidates")
            continue
        best, worst = max(known, key=lambda rated: rated[0]), min(known, key=lambda rated: rated[0])
        if best[0] == worst[0]:
            workbench.discard("equal ratings")
            continue
        query, (chosen, rejected) = workbench.encode_answers(prompt.chat, (best[1], worst[1]))
        if chosen == rejected:  # the same response, rated differently by a judge that samples
            workbench.discard("equal responses")
            continue
        record = {
            **prompt.record,
            "chosen": best[1].text,
            "rejected": worst[1].text,
            "chosen_rating": best[0],
            "rejected_rating": worst[0],
            "ratings": list(rated),
        }
        pair = TokenSequence(query, chosen), TokenSequence(query, rejected)
        examples.append(Example(prompt.id, pair, record))
    return examples
