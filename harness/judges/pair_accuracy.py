"""How often a judge prefers the chosen response of a pair: the accuracy of synthetic data (the paper's section 6.3)."""

from collections.abc import Sequence
from statistics import fmean

from harness.endpoints.base import JudgeRequest
from harness.judges.base import Judge
from harness.judges.templates import fill
from harness.judges.verdicts import choice_of
from harness.types import question_text, reply_text

QUESTION = (
    "Which of two answers serves the user better? Neither their order nor their length counts. Explain briefly, then "
    "end with your verdict: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally good."
    "\n\n[Question]\n{question}\n\n[The Start of Answer A]\n{a}\n[The End of Answer A]\n\n"
    "[The Start of Answer B]\n{b}\n[The End of Answer B]"
)
SIDES = ("chosen", "rejected")


def judged_accuracy(judge: Judge, pairs: Sequence[tuple[str, dict]]) -> dict[str, float | int | None]:
    """Asks an LLM judge about each pair in both orders.

    Args:
        pairs: id and record ("prompt", "chosen", "rejected") of each.

    Returns:
        pair_accuracy: mean over the pairs with a verdict: 1 where the chosen wins, 0.5 for a tie, the two orders
            averaged; None without any verdict. pairs_judged and pairs_without_verdict: how many there are.
    """
    requests = [_request(name, record, order) for name, record in pairs for order in (SIDES, SIDES[::-1])]
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


def _request(name: str, record: dict, order: Sequence[str]) -> JudgeRequest:
    first, second = (reply_text(record[side]) for side in order)
    text = fill(QUESTION, {"question": question_text(record["prompt"]), "a": first, "b": second})
    return JudgeRequest(f"{name}/{order[0]}-first", ({"role": "user", "content": text},))


def graded_accuracy(grade, pairs: Sequence[tuple[str, dict]]) -> dict[str, float | int]:
    """The same by a program that grades an answer to a question; equal grades, or none, count half."""
    agreements = []
    for _, record in pairs:
        question = record["prompt"][-1]["content"]
        chosen, rejected = (grade(question, reply_text(record[side])) for side in SIDES)
        known = chosen is not None and rejected is not None and chosen != rejected
        agreements.append(float(chosen > rejected) if known else 0.5)
    return {"pair_accuracy": fmean(agreements), "pairs_judged": len(agreements)}
