"""The testbed's judge: a program that knows the world, with the interface of an LLM judge.

It reads question and answers from the prompt's text, between the first opening and the last closing mark, so that
marks or verdicts inside an answer have no effect. A question that the world does not know gets no verdict.
"""

import math
import re
from collections.abc import Sequence

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.progress import Advance
from harness.testbed.items import Item, parse
from harness.testbed.responses import aspects, quality, rating

SURE, UNSURE = 0.999, 0.5  # probability of the better answer's letter, and of each letter in a tie


class TestbedJudge:
    """Judges single answers (FastChat's prompts) and pairs (AlpacaEval's prompt, by the first token m or M)."""

    __test__ = False  # not a test, despite its name
    name = "testbed-world"
    endpoint = None
    price = None

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        replies = []
        for request in requests:
            replies.append(_reply(request))
            if advance:
                advance(1)
        return replies

    def quality(self, question: str, answer: str) -> float | None:
        """Return the quality of an answer within [0, 1]; None if the world does not know the question."""
        item = parse(question)
        return None if item is None else quality(item, answer)


def _reply(request: JudgeRequest) -> JudgeReply:
    text = request.messages[-1]["content"]
    if request.alternatives:
        return _compare(request.id, text)
    readings = _single(text) or _conversation(text)
    if not readings:
        return JudgeReply(request.id, "The question is not of this world.", model=TestbedJudge.name)
    item, answer = min(readings, key=lambda reading: quality(*reading))
    found = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in aspects(item, answer).items())
    return JudgeReply(request.id, f"{found}. Rating: [[{rating(item, answer)}]]", model=TestbedJudge.name)


def _between(text: str, opening: str, closing: str) -> str | None:
    start, end = text.find(opening), text.rfind(closing)
    return text[start + len(opening) : end].strip() if 0 <= start < end else None


def _single(text: str) -> list[tuple[Item, str]]:
    answer = _between(text, "[The Start of Assistant's Answer]", "[The End of Assistant's Answer]")
    question = re.search(r"\[Question\]\n(.*?)\n\n", text, re.DOTALL)
    item = parse(question.group(1)) if question else None
    return [(item, answer)] if item and answer is not None else []


def _conversation(text: str) -> list[tuple[Item, str]]:
    """Return the second turn with its answer, in each way that the marks can be read.

    An answer may contain the marks and another question; such a text has several readings, and the worst one counts, so
    that forging a turn cannot raise a rating.
    """
    talk = _between(text, "<|The Start of Assistant A's Conversation with User|>", "<|The End of Assistant A's")
    if talk is None:
        return []
    user, assistant = "### User:\n", "\n\n### Assistant A:\n"
    first, _, rest = talk.removeprefix(user).partition(assistant)
    item = parse(first)
    if item is None:
        return []
    turns = [rest[mark.end() :].partition(assistant) for mark in re.finditer(re.escape(user), rest)]
    read = [(parse(question, item), answer) for question, marked, answer in turns if marked]
    return [(follow_up, answer) for follow_up, answer in read if follow_up]


def _compare(identifier: str, text: str) -> JudgeReply:
    instruction = _between(text.partition("\n\n## Model Outputs")[0], '"instruction": """', '""",')
    outputs = _between(text, '"model_identifier": "m",\n        "output": """', '"""\n    }\n}\n\n## Task')
    answers = (outputs or "").split('"""\n    },\n    {\n        "model_identifier": "M",\n        "output": """')
    item = parse(instruction or "")
    if item is None or len(answers) != 2:  # an answer that contains the boundary gets no verdict
        return JudgeReply(identifier, "The question is not of this world.", model=TestbedJudge.name)
    first, second = (quality(item, answer) for answer in answers)
    share = UNSURE if first == second else SURE if first > second else 1 - SURE
    token = {"m": math.log(share), "M": math.log(1 - share)}
    return JudgeReply(identifier, max(token, key=token.__getitem__), first_token=token, model=TestbedJudge.name)
