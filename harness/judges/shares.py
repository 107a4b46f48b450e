"""Check that enough judgments have a verdict: a failing judge must not look like missing answers."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.endpoints.base import CUT, JudgeReply
from harness.errors import UserError
from harness.judges.verdicts import LEAST_PROBABILITY

NONE = {"preference": None, "rating": None, "score": -1}  # a judgment's verdict fields, and their value for "none"
LONGEST_EXAMPLE = 60  # characters of a reply in a message


def check_verdicts(benchmark: str, absent: int, judgments: Sequence[Mapping[str, Any]], most: float, step: str) -> None:
    """Check the share of judgments without a verdict.

    Args:
        absent: judgments that the benchmark's score has no value for.
        judgments: stored rows; each of a row's "askings" counts.
        most: largest share that may have no verdict.
        step: the step that stays open, for the message.

    Raises:
        UserError: when more have none, with the reasons and a remedy for each.
    """
    askings = list(_askings(judgments))
    silent = [row for row in askings if _is_silent(row)]
    absent = max(absent, len(silent))
    _check(absent, max(len(askings), absent), silent, benchmark, most, step)


def check_ratings(rated: Sequence[tuple[JudgeReply, float | None]], most: float, step: str) -> None:
    """Check the share of training candidates without a rating.

    Raises:
        UserError: see `check_verdicts`.
    """
    silent = [asdict(reply) for reply, rating in rated if rating is None]
    _check(len(silent), len(rated), silent, "training candidates", most, step)


def _check(absent: int, total: int, silent: Sequence[Mapping[str, Any]], judged: str, most: float, step: str) -> None:
    if not total or absent <= most * total:
        return
    raise UserError(
        f"{absent} of {total} judgments of {judged} have no verdict, which is more than --judge-missing "
        f"{most:g}: {'; '.join(_reasons(silent)) or 'the judge gave none'}. Step {step} stays open. "
        "The same command asks again for what failed or was cut; with --rejudge also for complete replies without a "
        "verdict; with --accept-missing it continues without them"
    )


def noted(remarks: Sequence[str]) -> dict[str, str]:
    """Return {"note": the remarks as one text} for a score's details, {} if there are none."""
    return {"note": "; ".join(remarks)} if remarks else {}


def note_of_form(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return remarks for a score's note about requests whose form was adapted to the judge's endpoint."""
    forms = Counter(tuple(row.get("form") or ()) for row in _askings(rows) if not row.get("error"))
    return [
        f"the judge's endpoint wants another form of requests ({', '.join(form)}): {number} judgments"
        for form, number in sorted(forms.items())
        if form
    ]


def _askings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        yield from row.get("askings") or [row]


def _is_silent(row: Mapping[str, Any]) -> bool:
    return any(name in row and row[name] == none for name, none in NONE.items())


def _reasons(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield why judgments have no verdict, with a remedy for each kind."""
    errors = Counter(row["error"] for row in rows if row.get("error"))
    if errors:
        said, _ = errors.most_common(1)[0]
        yield f"{errors.total()} failed ({said!r:.400})"
    replied = [row for row in rows if not row.get("error")]
    cut = [row for row in replied if (row.get("finish_reason") or "").lower() in CUT and not row.get("first_token")]
    if cut:
        yield f"{len(cut)} replies were cut at their length (a higher --judge-max-tokens gives them more room)"
    others = [row for row in replied if row not in cut]
    if others:
        example = next(filter(None, map(_example, others)), "nothing")
        yield f"{len(others)} replies have no verdict that counts, such as {example}"


def _example(row: Mapping[str, Any]) -> str:
    """Return the end of a reply, and its likeliest first token if letters are read there."""
    text = (row.get("judgment") or row.get("text") or "")[-LONGEST_EXAMPLE:]
    if not row.get("first_token"):
        return repr(text) if text else ""
    likeliest = max(row["first_token"], key=row["first_token"].__getitem__)
    probability = math.exp(min(0.0, row["first_token"][likeliest]))
    return (
        f"{text!r}, whose first token is {likeliest!r:.40} (probability {probability:.2g}; the letters need "
        f"{LEAST_PROBABILITY} together; --judge-set logprobs=false reads the letter in the text)"
    )
