"""Responses under principles: y+ under x+, y- under x-, and yo under x (paper, section 4, step 2)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import PurePath
from typing import Any

from harness.engines.base import Completion
from harness.errors import UserError
from harness.files.urls import public_url
from harness.methods.base import Lengths, QueryCost, Workbench
from harness.models.folder import model_folder
from harness.models.weights import parameter_count
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.types import Prompt, TokenIds
from harness.work import Nominal, Work, sampled, sequences, total
from sso.objective import Query
from sso.principles import Principle, choose_principles, load_set, with_principle
from sso.writers import EndpointWriter, EngineWriter, PolicyWriter, Writer, connect, load_engine

SOURCES = ("fixed", "self", "model")
SMALLEST = 1e6  # parameters of a model behind an endpoint; fewer are a mistake, such as 72 for 72e9
WRITING_TOKENS = 60  # length of the request to write principles, without the query
GOOD, PAIR, TRIPLE = ("good",), ("good", "bad"), ("good", "bad", "plain")  # y+, y- and yo, by the prompt they answer
KEPT = {1: 1.0, 2: 0.95, 3: 0.8}  # share of queries whose 1, 2 or 3 responses can be used, measured on the testbed


@dataclass(frozen=True)
class PrincipleOptions(TrainingOptions):
    """Where principles come from.

    principles: "fixed", "self" (the policy writes them) or "model" (principle_model does).
    principle_set: "testbed", "general" or a JSON file; it also replaces principles that were not written.
    features: how many per query.
    principle_model: folder or hub id of a model, or with principle_url the model's name there.
    principle_url: base URL of an OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY.
    principle_parameters: size of the model at the endpoint; its tokens are charged at 2 FLOPs per parameter.
    principle_tokens: longest reply of the writer (the policy's is never longer than max_new_tokens).
    """

    principles: str = "fixed"
    principle_set: str = "testbed"
    features: int = 2
    principle_model: str | None = None
    principle_url: str | None = None
    principle_parameters: float | None = None
    principle_tokens: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.principles not in SOURCES:
            raise UserError(f"principles must be one of {', '.join(SOURCES)}, not {self.principles!r}")
        if self.features < 1:
            raise UserError(f"features must be at least 1, not {self.features}")
        if self.principle_tokens < 1:
            raise UserError(f"principle_tokens must be at least 1, not {self.principle_tokens}")
        self._check_writer()
        load_set(self.principle_set)  # a missing set is reported before anything is spent

    @property
    def supervision(self) -> str:
        """Where the preferences come from, for the table."""
        return f"principles ({PurePath(self.principle_model).name if self.principle_model else self.principles})"

    def _check_writer(self) -> None:
        """Check that the options of a writer are complete, and belong to the source."""
        for name in ("principle_model", "principle_url", "principle_parameters"):
            if self.principles != "model" and getattr(self, name) is not None:
                raise UserError(
                    f"{name} needs principles=model, not principles={self.principles}: leave one of them out"
                )
        if self.principles == "model" and not self.principle_model:
            raise UserError("principles=model needs principle_model: a model's folder or hub id, or its name at a URL")
        if self.principle_url is None:
            if self.principle_parameters is not None:
                raise UserError(
                    "principle_parameters needs principle_url: leave it out, a model on this machine is measured"
                )
            return
        try:
            public_url(self.principle_url)
        except UserError as error:
            raise UserError(f"principle_url: {error}") from None
        if self.principle_parameters is None:
            raise UserError(
                "principle_url needs principle_parameters, such as 72e9: endpoints do not report the size of a model, "
                "and the tokens that write principles are charged to the budget"
            )
        if not SMALLEST <= self.principle_parameters < inf:
            raise UserError(
                f"principle_parameters must be a number of parameters of at least {SMALLEST:g}, such as 72e9, "
                f"not {self.principle_parameters:g}"
            )


@dataclass(frozen=True)
class Responses:
    """What was sampled for one prompt. In `tokens`, a response that was not requested is empty."""

    prompt: Prompt
    tokens: Query
    record: dict[str, Any]


def writer_of(options: PrincipleOptions, workbench: Workbench) -> Writer | None:
    """What writes the principles, None where they are drawn. A model on this machine runs on the policy's device.

    Raises:
        UserError: when the model is not on this machine or cannot be used.
    """
    if options.principles == "self":
        return PolicyWriter(options.principle_tokens)
    model = options.principle_model
    if model is None:
        return None
    if options.principle_url and options.principle_parameters:
        client = connect(model, options.principle_url, workbench.shared)
        return EndpointWriter(client, options.principle_parameters, options.principle_tokens)
    policy = workbench.engine
    engine = load_engine(model, str(policy.device), policy.batch_size, policy.day)
    return EngineWriter(engine, options.principle_tokens)


def sample_responses(
    workbench: Workbench, prompts: Sequence[Prompt], options: PrincipleOptions, kinds: Sequence[str]
) -> list[Responses]:
    """Sample responses of these kinds (GOOD, PAIR or TRIPLE) to each prompt.

    A query is dropped, and counted by reason, when a response is unfinished or empty, or when two are equal.
    """
    texts = load_set(options.principle_set)
    principles = choose_principles(workbench, prompts, texts, options.features, writer_of(options, workbench))
    chats = [
        {
            "plain": prompt.chat,
            "good": with_principle(prompt.chat, principle.good, texts.do_not_reveal),
            "bad": with_principle(prompt.chat, principle.bad, texts.do_not_reveal),
        }
        for prompt, principle in zip(prompts, principles, strict=True)
    ]
    completions = workbench.sample(
        "generate",
        [chat[kind] for kind in kinds for chat in chats],
        [f"{prompt.id}/{kind}" for kind in kinds for prompt in prompts],
    )
    kept = []
    for index, (prompt, principle, chat) in enumerate(zip(prompts, principles, chats, strict=True)):
        sampled = dict(zip(kinds, completions[index :: len(prompts)], strict=True))
        if reason := drop_reason(sampled.values()):
            workbench.discard(reason)
            continue
        encoded = [workbench.encode_answers(messages, list(sampled.values())) for messages in chat.values()]
        responses = encoded[0][1]
        if any(others != responses for _, others in encoded):
            workbench.discard("the template writes a response differently under each prompt")
            continue
        if len(set(responses)) < len(responses):
            workbench.discard("equal responses")
            continue
        queries = dict(zip(chat, (query for query, _ in encoded), strict=True))
        replies: dict[str, TokenIds] = {f"{kind}_response": () for kind in chat}
        replies |= {f"{kind}_response": response for kind, response in zip(sampled, responses, strict=True)}
        kept.append(Responses(prompt, Query(**queries, **replies), _record(prompt, principle, sampled)))
    return kept


def _record(prompt: Prompt, principle: Principle, sampled: dict[str, Completion]) -> dict[str, Any]:
    names = {"good": "chosen", "bad": "rejected", "plain": "plain"}
    return {
        **prompt.record,
        "features": list(principle.features),
        "good_principle": principle.good,
        "bad_principle": principle.bad,
        **{names[kind]: completion.text for kind, completion in sampled.items()},
    }


def drop_reason(responses: Collection[Completion]) -> str | None:
    """Why a query with these responses is dropped; None where it is used."""
    if not all(response.finished for response in responses):
        return "unfinished"
    if not all(response.text.strip() for response in responses):
        return "empty"
    return None


def expected_kept(lengths: Lengths, responses: int) -> float:
    """Expected share of queries whose responses can all be used."""
    return KEPT[responses] * lengths.finished**responses


def expected_work(lengths: Lengths, options: PrincipleOptions, kinds: Sequence[str]) -> Work:
    """Expected work of the policy in `sample_responses`, per query."""
    prompts = (lengths.prompt + (0 if kind == "plain" else lengths.system) for kind in kinds)
    responses = total(sampled(prompt, lengths.completion) for prompt in prompts)
    return responses + writing_work(lengths, options) if options.principles == "self" else responses


def writing_work(lengths: Lengths, options: PrincipleOptions) -> Work:
    """Expected work of writing a query's principles.

    The length of another model's replies is not known; planning with the longest keeps the run within the budget.
    """
    if options.principles == "fixed":
        return Work()
    longest = float(options.principle_tokens)
    reply = min(lengths.completion, longest) if options.principles == "self" else longest
    return sampled(lengths.prompt + WRITING_TOKENS, reply)


def writing_flops(lengths: Lengths, options: PrincipleOptions) -> float:
    """Planned FLOPs of another model that writes a query's principles: 2 N per token, with N from the option or from
    the headers of its files.

    Raises:
        UserError: when the model is not on this machine.
    """
    if options.principles != "model" or options.principle_model is None:
        return 0.0
    parameters = options.principle_parameters or parameter_count(model_folder(options.principle_model))
    return Nominal(parameters).forward(writing_work(lengths, options))


def collect_pairs(workbench: Workbench, prompts: Sequence[Prompt], options: PrincipleOptions) -> list[Example]:
    """Make an example (x; y+) over (x; y-) of each prompt whose responses can be used."""
    return [
        Example(
            query.prompt.id,
            (
                TokenSequence(query.tokens.plain, query.tokens.good_response),
                TokenSequence(query.tokens.plain, query.tokens.bad_response),
            ),
            query.record,
        )
        for query in sample_responses(workbench, prompts, options, PAIR)
    ]


def expect_pairs(lengths: Lengths, options: PrincipleOptions) -> QueryCost:
    """The expected cost of a query in `collect_pairs`."""
    trained = sequences(lengths.prompt, lengths.completion, lengths.completion)
    kept = expected_kept(lengths, len(PAIR))
    return QueryCost(expected_work(lengths, options, PAIR), trained, kept, writing_flops(lengths, options))
