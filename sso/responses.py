"""Responses under principles: y+ under x+, y- under x-, and yo under x (paper, section 4, step 2)."""

from collections.abc import Collection, Sequence
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
GOOD, PAIR, TRIPLE = ("good",), ("good", "bad"), ("good", "bad", "plain")  # y+, y- and yo, by the prompt they answer
KEPT = {1: 1.0, 2: 0.95, 3: 0.8}  # share of queries whose 1, 2 or 3 responses can be used, measured on the testbed


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
    """What was sampled for one prompt. In `tokens`, a response that was not asked for is empty."""

    prompt: Prompt
    tokens: Query
    record: dict


def sample_responses(
    bench: Workbench, prompts: Sequence[Prompt], options: PrincipleOptions, kinds: Sequence[str]
) -> list[Responses]:
    """The responses of these kinds (GOOD, PAIR or TRIPLE) to each prompt.

    A query is dropped, and counted with the reason, when a response is unfinished or empty, or two are equal.
    """
    texts = load_set(options.principle_set)
    principles = choose_principles(bench, prompts, options.principles, texts, options.features)
    chats = [
        {
            "plain": list(prompt.messages),
            "good": with_principle(prompt.messages, principle.good, texts.do_not_reveal),
            "bad": with_principle(prompt.messages, principle.bad, texts.do_not_reveal),
        }
        for prompt, principle in zip(prompts, principles, strict=True)
    ]
    completions = bench.sample(
        "generate",
        [chat[kind] for kind in kinds for chat in chats],
        [f"{prompt.id}/{kind}" for kind in kinds for prompt in prompts],
    )
    kept = []
    for index, (prompt, principle, chat) in enumerate(zip(prompts, principles, chats, strict=True)):
        sampled = dict(zip(kinds, completions[index :: len(prompts)], strict=True))
        if reason := drop_reason(sampled.values()):
            bench.discard(reason)
            continue
        queries = {kind: bench.engine.encode_chat(messages) for kind, messages in chat.items()}
        responses = {f"{kind}_response": sampled[kind].token_ids if kind in sampled else () for kind in chat}
        kept.append(Responses(prompt, Query(**queries, **responses), _record(prompt, principle, sampled)))
    return kept


def _record(prompt: Prompt, principle: Principle, sampled: dict[str, Completion]) -> dict:
    names = {"good": "chosen", "bad": "rejected", "plain": "plain"}
    return {
        "prompt": list(prompt.messages),
        "features": list(principle.features),
        "good_principle": principle.good,
        "bad_principle": principle.bad,
        **{names[kind]: completion.text for kind, completion in sampled.items()},
    }


def drop_reason(responses: Collection[Completion]) -> str | None:
    """Why a query with these responses is not used, or None."""
    if not all(response.finished for response in responses):
        return "unfinished"
    if not all(response.text.strip() for response in responses):
        return "empty"
    if len({response.token_ids for response in responses}) < len(responses):
        return "equal responses"
    return None


def expected_tokens(lengths: Lengths, options: PrincipleOptions, kinds: Sequence[str]) -> tuple[float, float]:
    """(read, generated) tokens that `sample_responses` is expected to take for one query."""
    read = sum(lengths.prompt + (0 if kind == "plain" else lengths.system) for kind in kinds)
    generated = len(kinds) * lengths.completion
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
        for each in sample_responses(bench, prompts, options, PAIR)
    ]


def expect_pairs(lengths: Lengths, options: PrincipleOptions) -> QueryCost:
    """The plan of a query of `collect_pairs`."""
    read, generated = expected_tokens(lengths, options, PAIR)
    return QueryCost(read, generated, trained=lengths.prompt + 2 * lengths.completion, kept=KEPT[2])
