"""Principles: texts that ask for a good or a bad response, put before a query as the system message.

A set of principles is data: features, each with good and bad texts. The source `fixed` draws them for each query; with
`self` and `model` a writer (the policy, or another model) writes them for the query, and drawn ones replace those that
it fails to write.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.files import rows
from harness.methods.base import NOT_WRITTEN, Workbench
from harness.types import Chat, Prompt, question_text
from sso.writers import Writer

CONCISION = "Concision"
CONCISION_RATE = 0.2  # share of queries that get it in addition, as in the authors' code


@dataclass(frozen=True)
class PrincipleSet:
    """Good and bad texts by feature, and the sentence that asks not to mention them."""

    good: Mapping[str, Sequence[str]]
    bad: Mapping[str, Sequence[str]]
    do_not_reveal: str


@dataclass(frozen=True)
class Principle:
    """A good and a bad text for one query, and the features that they are about."""

    features: tuple[str, ...]
    good: str
    bad: str


GENERAL = {
    "Safety": (
        "Put people's safety first: decline to help with harm, and say why in a friendly way.",
        "Do not care about safety: help with whatever is asked, also where somebody could get hurt.",
    ),
    "Logicality": (
        "Reason step by step, so that each statement follows from the ones before.",
        "Do not reason: jump to conclusions, and let statements contradict each other.",
    ),
    "Comprehensiveness": (
        "Cover every part of the request, with the background that a reader needs.",
        "Cover only a part of the request, and leave out what a reader needs.",
    ),
    "Helpfulness": (
        "Find out what the user really wants, and give an answer that can be put to use at once.",
        "Give an answer that is of no use to the user, whatever the user wants.",
    ),
    "Literariness": (
        "Write vividly and elegantly, with words and rhythm that fit the subject.",
        "Write clumsily and flatly, with words that do not fit the subject.",
    ),
    "Accuracy": (
        "State only what is true, check facts and figures, and say where you are not sure.",
        "Do not check facts and figures: state what is wrong as if it were certain.",
    ),
    "Engagement": (
        "Speak to the user with warmth and interest, and invite them to go on.",
        "Speak to the user coldly and without interest, as if they were a nuisance.",
    ),
    CONCISION: (
        "Be brief: say what is needed in few words, without repetition.",
        "Be long-winded: repeat yourself, and add words that say nothing.",
    ),
}
DO_NOT_REVEAL = " Do not mention this instruction in your answer."

WRITING = (
    "Here is a request:\n\n{query}\n\nWrite one principle that a very good answer to it follows, and one that leads to "
    "a poor answer. Reply with two lines:\nGood: ...\nBad: ..."
)
_LINE = re.compile(r"[\W\d]*(?P<side>Good|Bad)\b[ \t*]*:(?P<text>\W*\w.*)")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
MARKUP, QUOTES = " \t*_`", "\"'\u201c\u201d\u201e\u00ab\u00bb"
LONGEST = 500  # characters of a principle; a longer text is not one, and could fill the policy's context


def load_set(name: str) -> PrincipleSet:
    """Load the set "general" or "testbed", or that of a JSON file {FEATURE: {"good": [...], "bad": [...]}}.

    Raises:
        UserError: when there is no such set or file, or the file has another form.
    """
    if name == "general":
        return PrincipleSet(
            {feature: [good] for feature, (good, _) in GENERAL.items()},
            {feature: [bad] for feature, (_, bad) in GENERAL.items()},
            DO_NOT_REVEAL,
        )
    if name == "testbed":
        from harness.testbed import principles as testbed

        return PrincipleSet(
            {feature: principle.good for feature, principle in testbed.PRINCIPLES.items()},
            {feature: principle.bad for feature, principle in testbed.PRINCIPLES.items()},
            testbed.DO_NOT_REVEAL,
        )
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no principle set {name!r}: give 'general', 'testbed' or a JSON file")
    data = rows.read_json(path)
    if not (isinstance(data, dict) and data and all(isinstance(texts, dict) for texts in data.values())):
        raise UserError(f'{path}: must be {{FEATURE: {{"good": [texts], "bad": [texts]}}}}')
    for feature, texts in data.items():
        for side in ("good", "bad"):
            listed = texts.get(side)
            if not (isinstance(listed, list) and listed and all(map(_is_text, listed))):
                raise UserError(f"{path}: {side!r} of {feature!r} must be a list of texts, at least one")
    good, bad = ({feature: tuple(texts[side]) for feature, texts in data.items()} for side in ("good", "bad"))
    return PrincipleSet(good, bad, DO_NOT_REVEAL)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def draw_principle(prompt: Prompt, principles: PrincipleSet, features: int, seed: int) -> Principle:
    """Draw features and texts for a query; only its id and the seed decide. Concision is only drawn in addition."""
    draw = random.Random(f"principle/{seed}/{prompt.id}")
    names = sorted(set(principles.good) - {CONCISION}) or [CONCISION]
    chosen = draw.sample(names, min(features, len(names)))
    if CONCISION in principles.good and CONCISION not in chosen and draw.random() < CONCISION_RATE:
        chosen.append(CONCISION)
    good = " ".join(draw.choice(principles.good[feature]) for feature in chosen)
    bad = " ".join(draw.choice(principles.bad[feature]) for feature in chosen)
    return Principle(tuple(chosen), good, bad)


def choose_principles(
    workbench: Workbench, prompts: Sequence[Prompt], principles: PrincipleSet, features: int, writer: Writer | None
) -> list[Principle]:
    """A principle for each prompt: drawn, or written for the query by the writer.

    Where the writer does not write both texts, the drawn ones are used and the event is counted.
    """
    drawn = [draw_principle(prompt, principles, features, workbench.sampling.seed) for prompt in prompts]
    if writer is None:
        return drawn
    chats = [
        [{"role": "user", "content": WRITING.replace("{query}", question_text(prompt.messages))}] for prompt in prompts
    ]
    replies = writer.write(workbench, chats, [f"{prompt.id}/principles" for prompt in prompts])
    chosen = []
    for reply, fallback in zip(replies, drawn, strict=True):
        written = parse_written(reply) if reply else None
        if written is None:
            workbench.count(NOT_WRITTEN)
        chosen.append(written or fallback)
    return chosen


def parse_written(reply: str) -> Principle | None:
    """The two principles in a writer's reply, the good one first; None unless both are there."""
    good = None
    for line in reply.splitlines():
        if not (match := _LINE.match(line)):
            continue
        text = _plain(match["text"])
        if match["side"] == "Good":
            good = good or text
        elif good:
            fit = all(len(side) <= LONGEST and not _CONTROL.search(side) for side in (good, text))
            return Principle(("written",), good, text) if fit else None
    return None


def _plain(text: str) -> str:
    """The text without the markup and quotation marks around it."""
    text = text.strip(MARKUP)
    return text[1:-1].strip() if len(text) > 2 and text[0] in QUOTES and text[-1] in QUOTES else text


def with_principle(chat: Chat, text: str, do_not_reveal: str) -> Chat:
    """x+ or x-: the query with a principle as its system message, after any instructions that it already has."""
    return chat.instructed(text + do_not_reveal)
