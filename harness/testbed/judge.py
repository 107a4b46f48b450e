"""The judge of the testbed: a program that knows the world, asked and answering as an LLM judge is.

It reads question and answers from the prompt's text, between the first opening and the last closing mark, so that
marks or verdicts inside an answer change nothing. A question that the world does not know gets no verdict.
"""

import math
import re
from collections.abc import Sequence

from harness.engines.base import Advance
from harness.judges.base import JudgeReply, JudgeRequest
from harness.testbed.items import Item, parse
from harness.testbed.responses import aspects, quality, rating

SURE, UNSURE = 0.999, 0.5  # probability of the better answer's letter, and of either in a tie


class TestbedJudge:
    """Judges single answers (FastChat's prompts) and pairs (AlpacaEval's prompt, by the first token m or M)."""

    __test__ = False  # not a test, whatever pytest thinks of its name
    name = "testbed-world"

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        replies = []
        for request in requests:
            replies.append(_reply(request))
            if advance:
                advance(1)
        return replies

    def quality(self, question: str, answer: str) -> float | None:
        """Quality of an answer within [0, 1]; None when the world does not know the question."""
        item = parse(question)
        return None if item is None else quality(item, answer)


def _reply(request: JudgeRequest) -> JudgeReply:
    text = request.messages[-1]["content"]
    if request.top_logprobs:
        return _compare(request.id, text)
    item, answer = _single(text) or _conversation(text) or (None, "")
    if item is None:
        return JudgeReply(request.id, "The question is not of this world.", model=TestbedJudge.name)
    found = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in aspects(item, answer).items())
    return JudgeReply(request.id, f"{found}. Rating: [[{rating(item, answer)}]]", model=TestbedJudge.name)


def _between(text: str, opening: str, closing: str) -> str | None:
    start, end = text.find(opening), text.rfind(closing)
    return text[start + len(opening) : end].strip() if 0 <= start < end else None


def _single(text: str) -> tuple[Item | None, str] | None:
    answer = _between(text, "[The Start of Assistant's Answer]", "[The End of Assistant's Answer]")
    question = re.search(r"\[Question\]\n(.*?)\n\n", text, re.DOTALL)
    return (parse(question.group(1)), answer) if question and answer is not None else None


def _conversation(text: str) -> tuple[Item | None, str] | None:
    """The second turn and its answer; what follows the second question's mark is the judged answer."""
    talk = _between(text, "<|The Start of Assistant A's Conversation with User|>", "<|The End of Assistant A's")
    if talk is None:
        return None
    user, assistant = "### User:\n", "\n\n### Assistant A:\n"
    first, _, rest = talk.removeprefix(user).partition(assistant)
    item = parse(first)
    if item is None:
        return None
    # An answer may hold these marks itself; the real second question is the one the world can read.
    for part in re.finditer(re.escape("\n\n" + user), "\n\n" + rest):
        question, found, answer = rest[max(0, part.end() - 2) :].partition(assistant)
        follow_up = parse(question, item) if found else None
        if follow_up:
            return follow_up, answer
    return None


def _compare(identifier: str, text: str) -> JudgeReply:
    instruction = _between(text.partition("\n\n## Model Outputs")[0], '"instruction": """', '""",')
    outputs = _between(text, '"model_identifier": "m",\n        "output": """', '"""\n    }\n}\n\n## Task')
    answers = (outputs or "").split('"""\n    },\n    {\n        "model_identifier": "M",\n        "output": """')
    item = parse(instruction or "")
    if item is None or len(answers) != 2:  # an answer that holds the boundary itself gets no verdict
        return JudgeReply(identifier, "The question is not of this world.", model=TestbedJudge.name)
    first, second = (quality(item, answer) for answer in answers)
    share = UNSURE if first == second else SURE if first > second else 1 - SURE
    token = {"m": math.log(share), "M": math.log(1 - share)}
    return JudgeReply(identifier, max(token, key=token.get), first_token=token, model=TestbedJudge.name)
