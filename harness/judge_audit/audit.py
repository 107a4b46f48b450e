"""Ask a judge about labelled answers and measure its verdicts: pairs in both orders, ratings once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import numpy as np

from harness.benchmarks.base import Judging
from harness.benchmarks.rows import AlpacaItem, AlpacaSample, MTBenchSample
from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.endpoints.limits import Price
from harness.judge_audit import fitness, measures
from harness.judge_audit.labels import LabelledPair, LabelSet, Rated, sample
from harness.judge_audit.measures import A_FIRST, B_FIRST, Choices, Ratings
from harness.judges.base import Judge, complete
from harness.judges.pair_accuracy import pair_request
from harness.judges.rating import rating_request
from harness.judges.verdicts import parse_choice, parse_rating
from harness.progress import Advance, progress
from harness.statistics.intervals import Interval

CUT = "length"  # finish reason of a reply that reached its token limit: its verdict may not be the final one


@dataclass
class Recorded:
    """Counts a judge's replies, for audits through a benchmark's own protocol, which does not count tokens."""

    judge: Judge
    advance: Advance
    requests: int = 0
    failed: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    models: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def endpoint(self) -> str | None:
        return self.judge.endpoint

    @property
    def price(self) -> Price | None:
        return self.judge.price

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        repeated = any(request.repeat for request in requests)
        replies = self.judge.complete(requests, None if repeated else self.advance)
        self.requests += len(replies)
        self.failed += sum(reply.error is not None for reply in replies)
        self.cut += sum(reply.finish_reason == CUT for reply in replies if not reply.error)
        self.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        self.completion_tokens += sum(reply.completion_tokens for reply in replies)
        self.models |= {reply.model for reply in replies if reply.model}
        return replies

    def cost(self) -> float | None:
        """Return the cost of these tokens in USD: 0 for a judge without an endpoint, None if the price is unknown.

        Failed attempts are not included.
        """
        if self.endpoint is None:
            return 0.0
        return self.price.cost(self.prompt_tokens, self.completion_tokens) if self.price else None


def audit(
    judge: Judge, sets: Sequence[LabelSet], *, limit: int, seed: int = 0, rejudge: bool = False, own: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the report on a judge, as plain data for JSON.

    Args:
        limit: pairs (or answers, with all their turns) of each set, drawn at random by the seed.
        rejudge: ask once more for a reply without a verdict.
        own: further names of the judge's own model among those of the answers.

    Returns:
        judge, endpoint, limit, seed, fit (None: too little to tell), verdict (a sentence), and sets: for each its name,
        kind, by (whose labels), labelled (total rows), left_out, judged (rows asked about), questions, askings, failed,
        unparsed, cut, prompt_tokens, completion_tokens, usd, own_answers, measures (name -> value, low, high; or null),
        fit, difference, cautious_difference, reasons, advice, verdict.
    """
    reports, by_set = [], {}
    for labels in sets:
        report, by_set[labels.name] = _audit_set(judge, labels, limit, seed, rejudge, own)
        reports.append(report)
    fit, verdict = fitness.overall(judge.name, by_set)
    return {
        "judge": judge.name,
        "endpoint": judge.endpoint,
        "limit": limit,
        "seed": seed,
        "fit": fit,
        "verdict": verdict,
        "sets": reports,
    }


def _audit_set(
    judge: Judge, labels: LabelSet, limit: int, seed: int, rejudge: bool, own: Sequence[str]
) -> tuple[dict[str, Any], fitness.Fitness]:
    rows: Sequence[Any] = sample(labels, limit, seed)  # all LabelledPair or all Rated, as the set's protocol needs them
    askings = len(rows) * (2 if labels.has_pairs else 1)
    with progress(f"{labels.name}: judge", askings) as advance:
        recorded = Recorded(judge, advance)
        verdicts = PROTOCOLS[labels.protocol](recorded, labels, rows, rejudge)
    names = {plain_name(name) for name in (judge.name, *recorded.models, *own)}
    places = {question: place for place, question in enumerate(dict.fromkeys(row.question for row in rows))}
    questions = np.array([places[row.question] for row in rows])
    given = np.array([row.label for row in rows])
    if labels.has_pairs:
        a_own = np.array([_is_own(row.model_a, names) - _is_own(row.model_b, names) for row in rows])
        a_longer = np.sign([len(row.a) - len(row.b) for row in rows])
        found = measures.of_pairs(Choices(given, verdicts, a_longer, a_own, questions))
        answered, is_own, judge_fitness = ~np.isnan(verdicts).all(1), a_own != 0, fitness.of_pairs
    else:
        is_own = np.array([_is_own(row.model, names) for row in rows])
        lengths = np.array([len(row.answer) for row in rows], dtype=float)
        found = measures.of_ratings(Ratings(given, verdicts, lengths, is_own, questions))
        answered, judge_fitness = ~np.isnan(verdicts), fitness.of_ratings
    without = int(np.isnan(verdicts).sum())
    with_verdict = len(set(questions[answered].tolist()))
    fit = judge_fitness(found, with_verdict, without / askings)
    failed = min(recorded.failed, without)
    report = {
        "name": labels.name,
        "kind": "pairs" if labels.has_pairs else "ratings",
        "by": labels.by,
        "labelled": len(labels.rows),
        "left_out": labels.left_out,
        "judged": len(rows),
        "questions": len(places),
        "askings": askings,
        "failed": failed,
        "unparsed": without - failed,
        "cut": recorded.cut,
        "prompt_tokens": recorded.prompt_tokens,
        "completion_tokens": recorded.completion_tokens,
        "usd": recorded.cost(),
        "own_answers": int(is_own.sum()),
        "measures": {name: _as_json(measure) for name, measure in found.items()},
        "fit": fit.fit,
        "difference": _finite(fit.difference),
        "cautious_difference": _finite(fit.cautious),
        "reasons": list(fit.reasons),
        "advice": list(fit.advice),
        "verdict": fit.sentence,
    }
    return report, fit


def _ask_pairs(judge: Judge, labels: LabelSet, rows: Sequence[LabelledPair], rejudge: bool) -> np.ndarray:
    """Return (n, 2) preferences for A, with A and with B shown first, asked for as in health checks of pairs."""
    requests = []
    for row in rows:
        for order, (first, second) in (("A", (row.a, row.b)), ("B", (row.b, row.a))):
            question = ({"role": "user", "content": row.question},)
            requests.append(pair_request(f"{row.id}/{order}-first", question, first, second))
    replies = complete(judge, requests, lambda reply: _choice(reply) is not None, rejudge)
    shown = np.array([np.nan if (choice := _choice(reply)) is None else choice for reply in replies]).reshape(-1, 2)
    shown[:, B_FIRST] = 1 - shown[:, B_FIRST]
    return shown


def _choice(reply: JudgeReply) -> float | None:
    """Return the preference for the answer shown first."""
    verdict = None if reply.error or reply.finish_reason == CUT else parse_choice(reply.text)
    return {"A": 1.0, "tie": 0.5, "B": 0.0}[verdict] if verdict else None


def _ask_ratings(judge: Judge, labels: LabelSet, rows: Sequence[Rated], rejudge: bool) -> np.ndarray:
    """Return (n,) ratings, asked for as in tuning."""
    requests = [rating_request(row.id, ({"role": "user", "content": row.question},), row.answer) for row in rows]
    replies = complete(judge, requests, lambda reply: _rating(reply) is not None, rejudge)
    return np.array([np.nan if (rating := _rating(reply)) is None else rating for reply in replies])


def _rating(reply: JudgeReply) -> float | None:
    return None if reply.error or reply.finish_reason == CUT else parse_rating(reply.text)


def _ask_alpaca_eval(judge: Judge, labels: LabelSet, rows: Sequence[LabelledPair], rejudge: bool) -> np.ndarray:
    """Return what `_ask_pairs` returns, by AlpacaEval's prompt and first token: a probability above 1/2 decides."""
    from harness.benchmarks.alpaca_eval import AlpacaEval

    items: list[AlpacaItem] = [{"id": row.id, "instruction": row.question, "reference": row.a} for row in rows]
    samples: list[AlpacaSample] = [{"id": row.id, "output": row.b} for row in rows]
    judged = AlpacaEval().judge(items, samples, judge, Judging(rejudge, both_orders=True), None)
    shown = np.full((len(rows), 2), np.nan)
    for place, row in enumerate(judged):
        for asking in row["askings"]:
            if asking["preference"] is not None:
                order = B_FIRST if asking["policy_first"] else A_FIRST
                shown[place, order] = 0.5 + 0.5 * np.sign(1.5 - asking["preference"])
    return shown


def _ask_mt_bench(judge: Judge, labels: LabelSet, rows: Sequence[Rated], rejudge: bool) -> np.ndarray:
    """Return what `_ask_ratings` returns, by MT-Bench's own prompts."""
    from harness.benchmarks.mt_bench import MTBench
    from harness.benchmarks.mt_bench_judgments import UNPARSED

    wanted: dict[str, list[str]] = {}
    for row in rows:
        model, question, _ = row.id.rsplit("/", 2)
        wanted.setdefault(model, []).append(question)
    ratings: dict[str, float] = {}
    for model, questions in wanted.items():
        items = [labels.context["items"][question] for question in dict.fromkeys(questions)]
        samples: list[MTBenchSample] = [
            {"id": item["id"], "turns": labels.context["answers"][model, item["id"]], "finished": [], "tokens": []}
            for item in items
        ]
        for judged in MTBench().judge(items, samples, judge, Judging(rejudge), None):
            if judged["score"] not in (None, UNPARSED):
                ratings[f"{model}/{judged['question_id']}/{judged['turn']}"] = judged["score"]
    return np.array([ratings.get(row.id, np.nan) for row in rows])


PROTOCOLS: dict[str, Callable[[Judge, LabelSet, Any, bool], np.ndarray]] = {
    "pairs": _ask_pairs,
    "ratings": _ask_ratings,
    "alpaca-eval": _ask_alpaca_eval,
    "mt-bench": _ask_mt_bench,
}


def plain_name(name: str) -> str:
    """Return a model's name without folders, hash, punctuation and case: gpt4_1106_preview, GPT-4-1106-preview."""
    last = name.rpartition("/")[2].partition("@")[0]
    return "".join(mark for mark in last.casefold() if mark.isalnum())


def _is_own(model: str | None, names: set[str]) -> bool:
    return model is not None and plain_name(model) in names


def _as_json(found: Interval | None) -> dict[str, float | None] | None:
    return {name: None if isnan(value) else value for name, value in vars(found).items()} if found else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
