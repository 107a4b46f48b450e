"""How often a judge prefers the chosen response of a pair: the accuracy of synthetic data (the paper's section 6.3)."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from harness.endpoints.base import Comparison, JudgeRequest
from harness.judges.base import Judge
from harness.judges.templates import fill
from harness.judges.verdicts import choice_of
from harness.types import Message, Reply, question_text, reply_text

QUESTION = (
    "Which of two answers serves the user better? Neither their order nor their length counts. Explain briefly, then "
    "end with your verdict: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally good."
    "\n\n[Question]\n{question}\n\n[The Start of Answer A]\n{a}\n[The End of Answer A]\n\n"
    "[The Start of Answer B]\n{b}\n[The End of Answer B]"
)
VERDICTS = ("[[A]]", "[[B]]", "[[C]]")  # the first wins, the second wins, a tie


def judged_accuracy(judge: Judge, pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, float | int | None]:
    """Ask an LLM judge about each pair in both orders.

    Args:
        pairs: id and record ("prompt", "chosen", "rejected") of each.

    Returns:
        pair_accuracy: the mean over the pairs with a verdict of 1 if the chosen reply wins and 0.5 for a tie, averaged
            over both orders; None if no pair has a verdict. pairs_judged and pairs_without_verdict: how many there are.
    """
    requests = []
    for name, record in pairs:
        prompt, chosen, rejected = record["prompt"], record["chosen"], record["rejected"]
        requests.append(pair_request(f"{name}/chosen-first", prompt, chosen, rejected))
        requests.append(pair_request(f"{name}/rejected-first", prompt, rejected, chosen))
    verdicts = [choice_of(reply) for reply in judge.complete(requests)]
    agreements = []
    for place in range(0, len(verdicts), 2):
        scores = [
            0.5 if verdict == "tie" else float(verdict == chosen)
            for verdict, chosen in zip(verdicts[place : place + 2], "AB", strict=True)
            if verdict
        ]
        if scores:
            agreements.append(fmean(scores))
    return {
        "pair_accuracy": fmean(agreements) if agreements else None,
        "pairs_judged": len(agreements),
        "pairs_without_verdict": len(pairs) - len(agreements),
    }


def pair_request(name: str, conversation: Sequence[Message], first: Reply, second: Reply) -> JudgeRequest:
    """Return a request to compare two replies, whose answer `harness.judges.verdicts.choice_of` parses.

    Args:
        name: id of the request.
    """
    shown = {"question": question_text(conversation), "a": reply_text(first), "b": reply_text(second)}
    return JudgeRequest(
        name,
        ({"role": "user", "content": fill(QUESTION, shown)},),
        compared=Comparison(conversation, first, second, VERDICTS),
    )


def graded_accuracy(
    grade: Callable[[str, str], float | None], pairs: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, float | int | None]:
    """Compute the pair accuracy with a program that grades an answer to a question; equal or missing grades count half.

    Args:
        grade: (question, answer) -> grade, None if it has none.
    """
    agreements = []
    for _, record in pairs:
        question = record["prompt"][-1]["content"]
        chosen = grade(question, reply_text(record["chosen"]))
        rejected = grade(question, reply_text(record["rejected"]))
        if chosen is None or rejected is None or chosen == rejected:
            agreements.append(0.5)
        else:
            agreements.append(float(chosen > rejected))
    return {"pair_accuracy": fmean(agreements), "pairs_judged": len(agreements)}
