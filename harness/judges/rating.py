"""Ask a judge to rate a single answer from 1 to 10."""

from collections.abc import Sequence

from harness.endpoints.base import JudgeRequest
from harness.judges.templates import fill
from harness.types import Message, question_text

PROMPT = (
    "[Instruction]\nRate how well the assistant's answer serves the user, from 1 to 10. Explain briefly, then end with "
    "the rating in this form: [[5]].\n\n[Question]\n{question}\n\n"
    "[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
)


def rating_request(name: str, messages: Sequence[Message], answer: str) -> JudgeRequest:
    """Return a request whose reply `harness.judges.verdicts.rating_of` parses.

    Args:
        name: id of the request.
        messages: the question.
    """
    text = fill(PROMPT, {"question": question_text(messages), "answer": answer})
    return JudgeRequest(name, ({"role": "user", "content": text},))
