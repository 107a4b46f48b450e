"""Responses under principles: y+ under x+, y- under x-, and yo under x (paper, section 4, step 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.engines.base import Completion
from harness.errors import UserError
from harness.methods import Lengths, Prompt, QueryCost, Workbench
from harness.training.examples import Example, TrainingOptions
from harness.training.examples import Sequence as TokenSequence
from sso.objective import Query
from sso.principles import Principle, choose_principles, load_set, with_principle

SOURCES = ("fixed", "self")
WRITING_TOKENS = 60  # of the request to write principles, beside the query
KEPT_PAIRS = 0.93  # queries whose y+ and y- can be used, measured on the testbed
KEPT_TRIPLES = 0.86  # queries whose y+, y- and yo can be used


@dataclass(frozen=True)
class PrincipleOptions(TrainingOptions):
    """Where principles come from.

    principles: "fixed", or "self" (the policy writes them).
    principle_set: "testbed", "general" or a JSON file.
    features: how many a query.
    """

    principles: str = "fixed"
    principle_set: str = "testbed"
    features: int = 2

    def __post_init__(self) -> None:
        if self.principles not in SOURCES:
            raise UserError(f"principles must be one of {', '.join(SOURCES)}, not {self.principles!r}")
        if self.features < 1:
            raise UserError(f"features must be at least 1, not {self.features}")
        load_set(self.principle_set)  # a set that is not there shows before anything is spent


@dataclass(frozen=True)
class Responses:
    """What was sampled for one prompt. Without yo, `tokens.plain_response` is empty."""

    prompt: Prompt
    tokens: Query
    record: dict


def sample_responses(
    bench: Workbench, prompts: Sequence[Prompt], options: PrincipleOptions, plain: bool
) -> list[Responses]:
    """y+ and y- of the prompts, and yo with `plain`.

    A query is dropped, and counted with the reason, when a response is unfinished or empty, or two are equal.
    """
    texts = load_set(options.principle_set)
    principles = choose_principles(bench, prompts, options.principles, texts, options.features)
    good_chats = [
        with_principle(prompt.messages, principle.good, texts.do_not_reveal)
        for prompt, principle in zip(prompts, principles, strict=True)
    ]
    bad_chats = [
        with_principle(prompt.messages, principle.bad, texts.do_not_reveal)
        for prompt, principle in zip(prompts, principles, strict=True)
    ]
    plain_chats = [list(prompt.messages) for prompt in prompts]
    kinds = {"good": good_chats, "bad": bad_chats} | ({"plain": plain_chats} if plain else {})
    completions = bench.sample(
        "generate",
        [chat for chats in kinds.values() for chat in chats],
        [f"{prompt.id}/{kind}" for kind in kinds for prompt in prompts],
    )
    encode = bench.engine.encode_chat
    kept = []
    for index, (prompt, principle) in enumerate(zip(prompts, principles, strict=True)):
        sampled = completions[index :: len(prompts)]
        if reason := drop_reason(sampled):
            bench.discard(reason)
            continue
        queries = (encode(chats[index]) for chats in (plain_chats, good_chats, bad_chats))
        responses = [completion.token_ids for completion in sampled] + ([] if plain else [()])
        kept.append(Responses(prompt, Query(*queries, *responses), _record(prompt, principle, sampled)))
    return kept


def _record(prompt: Prompt, principle: Principle, sampled: Sequence[Completion]) -> dict:
    return {
        "prompt": list(prompt.messages),
        "features": list(principle.features),
        "good_principle": principle.good,
        "bad_principle": principle.bad,
        **dict(zip(("chosen", "rejected", "plain"), (completion.text for completion in sampled), strict=False)),
    }


def drop_reason(responses: Sequence[Completion]) -> str | None:
    """Why a query with these responses is not used, or None."""
    if not all(response.finished for response in responses):
        return "unfinished"
    if not all(response.text.strip() for response in responses):
        return "empty"
    if len({response.token_ids for response in responses}) < len(responses):
        return "equal responses"
    return None


def expected_tokens(lengths: Lengths, options: PrincipleOptions, plain: bool) -> tuple[float, float]:
    """(read, generated) tokens that `sample_responses` is expected to take for one query."""
    read = 2 * (lengths.prompt + lengths.system) + (lengths.prompt if plain else 0)
    generated = (3 if plain else 2) * lengths.completion
    if options.principles == "self":
        read += lengths.prompt + WRITING_TOKENS
        generated += lengths.completion
    return read, generated


def collect_pairs(bench: Workbench, prompts: Sequence[Prompt], options: PrincipleOptions) -> list[Example]:
    """(x; y+) over (x; y-) of each prompt whose responses can be used."""
    return [
        Example(
            each.prompt.id,
            (
                TokenSequence(each.tokens.plain, each.tokens.good_response),
                TokenSequence(each.tokens.plain, each.tokens.bad_response),
            ),
            each.record,
        )
        for each in sample_responses(bench, prompts, options, plain=False)
    ]


def expect_pairs(lengths: Lengths, options: PrincipleOptions) -> QueryCost:
    """The plan of a query of `collect_pairs`."""
    read, generated = expected_tokens(lengths, options, plain=False)
    return QueryCost(read, generated, trained=2 * (lengths.prompt + lengths.completion), kept=KEPT_PAIRS)
