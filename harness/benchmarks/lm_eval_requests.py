"""Requests of lm-eval's tasks, asked of our engines: texts become token ids where lm-eval's HFLM makes them.

A conversation is written by the engine's chat template. What lm-eval appends to its text (a continuation, the beginning
of an answer) is tokenized together with the end of it, by the rule of `lm_eval.api.model.TemplateLM._encode_pair`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.benchmarks.rows import LMEvalContext, LMEvalItem, LMEvalRequest, LMEvalSample
from harness.engines.base import Engine, Sampling
from harness.errors import UserError
from harness.progress import Advance
from harness.types import TokenIds

TAIL = 64  # tokens at the end of a prompt that are tokenized again with what follows
KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p")
MAX_NEW_TOKENS = 256  # HFLM's


class Unread:
    """Stands for whether a continuation is the model's greedy one, where that was not asked."""

    def __bool__(self) -> bool:
        raise UserError(
            "a metric of this lm-eval task asks whether choices are what the model would write, which is not read"
        )

    def __int__(self) -> int:
        return int(bool(self))


@dataclass
class Chats:
    """The conversations that lm-eval builds: `write` stands for HFLM's apply_chat_template and returns them as JSON."""

    written: set[str]

    def write(self, history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        text = json.dumps({"messages": list(history), "begun": not add_generation_prompt})
        self.written.add(text)
        return text

    def context(self, text: str) -> LMEvalContext:
        """Return a conversation, or a plain text."""
        return json.loads(text) if text in self.written else {"text": text}


def generation(arguments: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return lm-eval's normalized generation settings.

    Raises:
        UserError: for settings that our engines do not have.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    known = dict(normalize_gen_kwargs(dict(arguments), MAX_NEW_TOKENS))
    if others := [name for name, value in known.items() if name not in KNOWN and value is not None]:
        raise UserError(f"{task} of lm-eval generates with {', '.join(others)}; harness knows {', '.join(KNOWN)}")
    return known


def answers(
    engine: Engine, name: str, items: Sequence[LMEvalItem], sampling: Sampling, given: bool, advance: Advance | None
) -> list[LMEvalSample]:
    """Return a row per item with lm-eval's responses: for each request a list with one response per repeat.

    A question that does not fit the context has "too_long" and no responses (lm-eval would cut its beginning off).

    Args:
        name: of the benchmark, for the sampling noise.
        sampling: max_new_tokens 0 stands for the task's; the temperature counts if `given`.
    """
    texts = RequestTexts(engine, name)
    rows: list[LMEvalSample] = []
    fits: list[tuple[LMEvalItem, list[Any]]] = []
    for item in items:
        encoded = [texts.encode(item, request) for request in item["requests"]]
        lengths = [
            len(prompt) + (rest if isinstance(rest, int) else len(rest))
            for prompt, rest in (
                (prompt, sampling.max_new_tokens or request["generation"]["max_gen_toks"])
                if "generation" in request
                else (prompt, rest)
                for request, (prompt, rest) in zip(item["requests"], encoded, strict=True)
            )
        ]
        if max(lengths) <= engine.context_length:
            fits.append((item, encoded))
        elif advance:
            advance(1)
    asked = [(item, number, *pair) for item, encoded in fits for number, pair in enumerate(encoded)]
    count = _per_item(advance, [len(encoded) for _, encoded in fits])
    if any("generation" in item["requests"][0] for item, _ in fits):
        found = _generate(engine, name, asked, sampling, given, count)
    else:
        found = _loglikelihoods(engine, name, asked, count)
    for item in items:
        responses = found.get(item["id"])
        rows.append({"id": item["id"], "responses": responses} if responses else {"id": item["id"], "too_long": True})
    return rows


def _per_item(advance: Advance | None, requests: Sequence[int]) -> Advance | None:
    """Return a counter of requests that advances by one per item, on average."""
    if advance is None or not requests:
        return None
    total, done = sum(requests), [0, 0]

    def count(number: int) -> None:
        done[0] += number
        items = len(requests) * min(done[0], total) // total
        advance(items - done[1])
        done[1] = items

    return count


class RequestTexts:
    """Contexts and continuations as token ids."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def encode(self, item: LMEvalItem, request: LMEvalRequest) -> tuple[TokenIds, TokenIds]:
        """Return a prompt, and the continuation whose log-probability is asked (empty where text is generated).

        Raises:
            UserError: when the tokenizer is not known here, behind an endpoint, and is needed.
        """
        context, continuation = item["contexts"][request["context"]], request.get("continuation")
        if "messages" in context:
            return self._of_chat(context["messages"], context["begun"], continuation)
        return self._of_text(context["text"], continuation)

    def _of_chat(
        self, messages: list[dict[str, Any]], begun: bool, continuation: str | None
    ) -> tuple[TokenIds, TokenIds]:
        prefix = messages[-1]["content"].strip() if begun else ""  # as transformers' continue_final_message
        prompt = self.engine.encode_chat(messages[:-1] if begun else messages)
        if not prefix and continuation is None:
            return prompt, ()
        end = self._decoded(prompt)
        if continuation is None:
            return self._replaced(prompt, end, end + prefix), ()
        whole = end + prefix
        before = whole.rstrip()
        after = whole[len(before) :] + continuation
        alone, together = self._ids(before), self._ids(before + after)
        return self._replaced(prompt, end, before), together[len(alone) :]

    def _of_text(self, text: str, continuation: str | None) -> tuple[TokenIds, TokenIds]:
        tokenizer = self.tokenizer
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        begins = text.startswith(tokenizer.decode([first]))  # the text has its first token already

        def ids(string: str) -> TokenIds:
            return tuple(tokenizer.encode(string, **({"add_special_tokens": False} if begins else {})))

        if continuation is None:
            return ids(text), ()
        if not text:
            rest = self._ids(continuation)
            return ((first,), rest) if rest[0] != first else (rest[:1], rest[1:])
        before = text.rstrip()
        alone = ids(before)
        return alone, ids(before + text[len(before) :] + continuation)[len(alone) :]

    @cached_property
    def tokenizer(self) -> Any:
        if self.engine.chat is None:
            raise UserError(
                f"{self.name} needs the tokenizer of {self.engine.name}, which is not known behind an endpoint: "
                "score the model itself, without --model-url"
            )
        return self.engine.chat.tokenizer

    def _ids(self, text: str) -> TokenIds:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decoded(self, prompt: TokenIds) -> str:
        return self.tokenizer.decode(list(prompt[-TAIL:]), clean_up_tokenization_spaces=False)

    def _replaced(self, prompt: TokenIds, end: str, text: str) -> TokenIds:
        """Return a prompt whose end, a text, is replaced by another text with the same beginning."""
        old, new = self._ids(end), self._ids(text)
        pairs = enumerate(zip(old, new, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
        dropped = len(old) - same
        kept = prompt[: len(prompt) - dropped]
        if prompt[len(kept) :] != old[same:]:
            raise UserError(
                f"{self.name}: the tokenizer of {self.engine.name} does not read the end of its own prompt again "
                f"({end[-20:]!r}): ask without the chat template, --set {self.name}.chat=false"
            )
        return kept + new[same:]


def _generate(
    engine: Engine, name: str, asked: Sequence[tuple[Any, ...]], sampling: Sampling, given: bool, count: Advance | None
) -> dict[str, list[list[Any]]]:
    """Return the texts by item id, cut at the task's stops."""
    groups: dict[Sampling, list[tuple[Any, ...]]] = defaultdict(list)
    for item, number, prompt, _ in asked:
        how = item["requests"][number]["generation"]
        wanted = Sampling(
            sampling.max_new_tokens or how["max_gen_toks"],
            sampling.temperature if given else float(how.get("temperature") or 0.0),
            float(how.get("top_p") or 1.0),
            sampling.seed,
            tuple(filter(None, how["until"])),
        )
        repeats = item["repeats"] if wanted.temperature else 1  # greedy ones are alike
        groups[wanted] += [(item, number, prompt, repeat) for repeat in range(repeats)]
    texts: dict[str, list[list[Any]]] = defaultdict(list)
    for wanted, group in groups.items():
        completions = engine.generate(
            [prompt for _, _, prompt, _ in group],
            [f"{name}/{item['id']}" + (f"/{repeat}" if repeat else "") for item, _, _, repeat in group],
            wanted,
            count,
        )
        for (item, number, _, _), completion in zip(group, completions, strict=True):
            text = completion.text
            for stop in item["requests"][number]["generation"]["until"]:
                text = text.split(stop)[0] if stop else text
            responses = texts[item["id"]]
            responses += [[] for _ in range(number + 1 - len(responses))]
            responses[number] += [text] * (1 if wanted.temperature else item["repeats"])
    return texts


def _loglikelihoods(
    engine: Engine, name: str, asked: Sequence[tuple[Any, ...]], count: Advance | None
) -> dict[str, list[list[Any]]]:
    """Return [log-probability, whether greedy decoding gives the continuation or None] by item id."""
    scored = engine.logprobs([prompt for _, _, prompt, _ in asked], [rest for *_, rest in asked], count)
    greedy: dict[int, bool] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for place, (item, _, _, rest) in enumerate(asked):
        if item["greedy"]:
            groups[len(rest)].append(place)
    for length, places in sorted(groups.items()):
        completions = engine.generate(
            [asked[place][2] for place in places],
            [f"{name}/{asked[place][0]['id']}/{asked[place][1]}" for place in places],
            Sampling(length),
        )
        for place, completion in zip(places, completions, strict=True):
            greedy[place] = tuple(completion.token_ids[:length]) == tuple(asked[place][3])
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for place, ((item, *_), logprob) in enumerate(zip(asked, scored, strict=True)):
        found[item["id"]].append([[logprob.total, greedy.get(place)]] * item["repeats"])
    return found
