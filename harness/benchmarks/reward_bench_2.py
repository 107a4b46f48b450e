"""RewardBench 2 (Malik et al. 2025): is the right one of four responses preferred, and are equally right ones equal?

A question of five subsets has one right response of four. The subset Ties has pairs of questions: a reference with one
right response, and one with several, which should be closer to each other than to the wrong ones.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import BenchmarkSize, HubTask, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.reward_bench import AUTO, FREE, MODES, NOTE, WITH_REFERENCE
from harness.benchmarks.reward_bench_modes import CLASSIFIER, GENERATIVE, IMPLICIT, VERDICT_TOKENS
from harness.benchmarks.rows import BestOfItem, BestOfQuestion, BestOfSample, JudgePrompt
from harness.engines.base import Engine, RewardEngine, Sampling
from harness.errors import UserError, unknown_name
from harness.files.data_files import HubRows
from harness.judges.templates import fill
from harness.judges.verdicts import parse_rating
from harness.progress import Advance
from harness.types import Message, TokenIds

ROWS = ("reward-bench-2.jsonl", "*.jsonl", "*.parquet")
TIES = "Ties"
REFERENCE, TIED = "ref", "tied"
PROMPT = "single-v1"  # FastChat's prompt for the rating of one answer
TIE_WEIGHTS = (0.3, 0.3, 0.2, 0.2, 0.01)  # accuracies of tied and reference, both preferences, the margin


@dataclass(frozen=True)
class RewardBench2Options:
    """mode: "auto" means "classifier" if the model is one, else "implicit"; "generative" rates each response."""

    mode: str = AUTO

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)


class RewardBench2(BenchmarkDefaults):
    """RewardBench 2 as a benchmark: the mean of its subsets."""

    name = "reward-bench-2"
    title = "RewardBench 2"
    needs_logprobs = True
    turns = 1
    sections = "subset"
    scores_classifiers = True
    question_fields = ("questions",)
    data_files = (
        HubRows(
            "rewardbench2/reward-bench-2.jsonl",
            "allenai/reward-bench-2",
            "test",
            ("id", "subset", "prompt", "chosen", "rejected"),
        ),
    )
    size = BenchmarkSize(questions=1814, prompt=350, reads=8)
    parts = {"subsets": "by subset"}
    Options = RewardBench2Options

    def hub_task(self, options: RewardBench2Options) -> HubTask:
        return HubTask("allenai/reward-bench-2", "test")

    def load(self, data_dir: Path, settings: Settings) -> list[BestOfItem]:
        options = settings.options or RewardBench2Options()
        prompt = _rating_prompt(data_dir) if options.mode == GENERATIVE else None
        file = files.find(data_dir / "rewardbench2", self.name, *ROWS)
        items: list[BestOfItem] = []
        pairs: dict[str, dict[str, BestOfQuestion]] = defaultdict(dict)
        for where, row in files.read_located_rows(file, id=str, prompt=str, chosen=list, rejected=list, subset=str):
            question = _question(where, row)
            if row["subset"] != TIES:
                if len(row["chosen"]) != 1:
                    raise UserError(f"{where}: has {len(row['chosen'])} chosen responses; only {TIES} has several")
                items.append({"id": row["id"], "subset": row["subset"], "questions": [question]})
                continue
            kind, _, pair = row["id"].partition(":")
            if kind not in (REFERENCE, TIED) or (kind == TIED) != (len(row["chosen"]) > 1):
                raise UserError(f"{where}: an id of {TIES} is ref:N with one chosen response, or tied:N with several")
            pairs[pair][kind] = question
        for pair, both in pairs.items():
            if len(both) < 2:
                raise UserError(f"{file}: {TIES} has only {next(iter(both))}:{pair} of the pair {pair}; fetch it again")
            items.append({"id": f"{TIES}/{pair}", "subset": TIES, "questions": [both[REFERENCE], both[TIED]]})
        if prompt:
            for item in items:
                item["judge_prompt"] = prompt
        return items

    def answer(
        self, policy: Policy, items: list[BestOfItem], settings: Settings, advance: Advance | None
    ) -> list[BestOfSample]:
        options = settings.options or RewardBench2Options()
        classifier = policy.engine if isinstance(policy.engine, RewardEngine) else None
        mode = (CLASSIFIER if classifier else IMPLICIT) if options.mode == AUTO else options.mode
        if (classifier is not None) != (mode == CLASSIFIER):
            what = "a sequence classifier" if classifier else "not a sequence classifier"
            raise UserError(f"{policy.engine.name} is {what}: it cannot be scored in the mode {mode!r}")
        if mode == GENERATIVE:
            found = _generative(policy.engine, items, settings)
        else:
            found = _read(policy, items)
        if advance:
            advance(len(items))
        rows: list[BestOfSample] = []
        for item in items:
            row: BestOfSample = {"id": item["id"], "mode": mode}
            row.update(found.get(item["id"], {"too_long": True}))  # type: ignore[typeddict-item]
            rows.append(row)
        return rows

    def clusters(self, items: Iterable[BestOfItem]) -> dict[str, str]:
        """Cluster by prompt; the two questions of a pair of Ties are one item."""
        return {item["id"]: " ".join(item["questions"][-1]["prompt"].split()) for item in items}

    def score(self, items: list[BestOfItem], samples: list[BestOfSample], judgments: list[Any]) -> Score:
        by_id = {item["id"]: item for item in items}
        rewarded = {row["id"]: found for row in samples if (found := rewards(row)) is not None}
        values = {each: 100 * outcome(by_id[each], found) for each, found in rewarded.items()}
        subset = {item["id"]: item["subset"] for item in items}
        missing = sum(bool(row.get("too_long")) for row in samples)
        first = next((row for row in samples if not row.get("too_long")), None)
        mode = samples[0]["mode"]
        how: dict[str, Any] = {"mode": mode}
        if mode == IMPLICIT:
            free = first is None or first.get("reference_logprobs") is None
            how |= {"reward": FREE, "note": NOTE} if free else {"reward": WITH_REFERENCE}
        subsets = _means(values, subset)
        sizes = {name: sum(subset[each] == name for each in values) for name in subsets}
        return Score(
            benchmark=self.name,
            metric="accuracy %",
            value=fmean(subsets.values()) if subsets else float("nan"),
            values=values,
            weights={each: 1 / sizes[subset[each]] for each in values},
            questions=len(items),
            missing=missing,
            unparsed=len(samples) - len(values) - missing,
            details={
                **how,
                "subsets": subsets,
                "controls": {
                    name: fmean(
                        _means({item["id"]: 100 * outcome(item, rule(item)) for item in items}, subset).values()
                    )
                    for name, rule in (("the longest wins", _lengths), ("the first wins", _first))
                },
            },
        )


def outcome(item: BestOfItem, rewarded: Sequence[Sequence[float]]) -> float:
    """Return the score of an item from the rewards of its questions' responses.

    One right response of four counts 1 if its reward is the largest; n equal largest ones count 1/n.
    """
    numbers = [len(question["responses"][: question["right"]]) for question in item["questions"]]
    if item["subset"] == TIES:
        return tie_score(rewarded[0], rewarded[1], numbers[1])
    (scores,) = rewarded
    largest = max(scores)
    return 1 / list(scores).count(largest) if scores[0] == largest else 0.0


def tie_score(reference: Sequence[float], tied: Sequence[float], right: int) -> float:
    """Return the published score of a pair of Ties, whose mean over pairs is the subset's.

    With d the spread of the right responses of the tied question, t its gap between the lowest right and the highest
    wrong one, and r the same gap of the reference: 0.3 [t > 0] + 0.3 [r > 0] + 0.2 [t > d] + 0.2 [min(r, t) > d] +
    0.01 tanh(min(r, t) / d - 1), the last being 0 for 0 / 0.

    Args:
        reference: rewards of the reference question, the right response first.
        tied: rewards of the tied question, the right responses first.
        right: how many of them are right.
    """
    spread = max(tied[:right]) - min(tied[:right])
    gap, reference_gap = min(tied[:right]) - max(tied[right:]), reference[0] - max(reference[1:])
    least = min(gap, reference_gap)
    ratio = least / spread if spread else math.copysign(math.inf, least)
    margin = 0.0 if not spread and not least else math.tanh(ratio - 1)
    terms = (gap > 0, reference_gap > 0, gap > spread, least > spread, margin)
    return sum(weight * float(term) for weight, term in zip(TIE_WEIGHTS, terms, strict=True))


def rewards(row: BestOfSample) -> list[list[float]] | None:
    """Return the reward of each response by question; None for an item that is too long, or lacks a rating."""
    if row.get("too_long"):
        return None
    if row["mode"] != IMPLICIT:
        found = row["rewards"]
        if any(score is None for scores in found for score in scores):
            return None
        return [[float(score) for score in scores if score is not None] for scores in found]
    references = row["reference_logprobs"]
    if references is None:
        return [
            [total / tokens for total, tokens in zip(totals, numbers, strict=True)]
            for totals, numbers in zip(row["logprobs"], row["tokens"], strict=True)
        ]
    beta = row["beta"] if row["beta"] is not None else 1.0
    return [
        [beta * (total - reference) for total, reference in zip(totals, others, strict=True)]
        for totals, others in zip(row["logprobs"], references, strict=True)
    ]


def _question(where: str, row: Mapping[str, Any]) -> BestOfQuestion:
    responses = [*row["chosen"], *row["rejected"]]
    if not row["chosen"] or not row["rejected"] or not all(isinstance(text, str) for text in responses):
        raise UserError(f"{where}: chosen and rejected must be lists of texts, both with one at least")
    return {"prompt": row["prompt"], "responses": responses, "right": len(row["chosen"])}


def _rating_prompt(data_dir: Path) -> JudgePrompt:
    """Return the judge prompt for ratings from MT-Bench's file."""
    file = files.find(data_dir / "mt_bench", "mt-bench", "judge_prompts.jsonl")
    for row in files.read_rows(file, name=str, system_prompt=str, prompt_template=str):
        if row["name"] == PROMPT:
            return {"system": row["system_prompt"], "template": row["prompt_template"]}
    raise UserError(f"{file}: no prompt named {PROMPT}")


def _read(policy: Policy, items: Sequence[BestOfItem]) -> dict[str, dict[str, Any]]:
    """Return log-probabilities, or a classifier's rewards, of the responses by question, of each item that fits."""
    engine: Engine | RewardEngine = policy.engine
    encoded: dict[str, list[tuple[TokenIds, list[TokenIds]]]] = {}
    for item in items:
        parts = [
            engine.encode_replies([{"role": "user", "content": question["prompt"]}], question["responses"])
            for question in item["questions"]
        ]
        if all(len(prompt) + max(map(len, replies)) <= engine.context_length for prompt, replies in parts):
            encoded[item["id"]] = parts
    flat = [(prompt, reply) for parts in encoded.values() for prompt, replies in parts for reply in replies]
    prompts, completions = [prompt for prompt, _ in flat], [reply for _, reply in flat]

    def by_question(values: Sequence[Any]) -> dict[str, list[list[Any]]]:
        rest = iter(values)
        return {name: [[next(rest) for _ in replies] for _, replies in parts] for name, parts in encoded.items()}

    if isinstance(engine, RewardEngine):
        found = by_question(engine.rewards(prompts, completions))
        return {name: {"rewards": scores} for name, scores in found.items()}
    scored = engine.logprobs(prompts, completions)
    totals, tokens = by_question([each.total for each in scored]), by_question([each.tokens for each in scored])
    references: Mapping[str, Any] = {}
    if policy.reference:
        references = by_question([each.total for each in policy.reference.logprobs(prompts, completions)])
    return {
        name: {
            "beta": policy.beta,
            "logprobs": totals[name],
            "tokens": tokens[name],
            "reference_logprobs": references.get(name),
        }
        for name in encoded
    }


def _generative(engine: Engine, items: Sequence[BestOfItem], settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the model's own ratings, 1 to 10, of the responses by question, of each item that fits."""
    sampling = Sampling(settings.max_new_tokens or VERDICT_TOKENS, settings.temperature or 0.0, seed=settings.seed)
    asked: dict[str, list[list[TokenIds]]] = {
        item["id"]: [
            [engine.encode_chat(_rate(item, question, response)) for response in question["responses"]]
            for question in item["questions"]
        ]
        for item in items
    }
    most = engine.context_length - VERDICT_TOKENS // 8
    fits = {name: parts for name, parts in asked.items() if all(len(each) <= most for part in parts for each in part)}
    places = [
        (name, part, number)
        for name, parts in fits.items()
        for part, several in enumerate(parts)
        for number in range(len(several))
    ]
    completions = engine.generate(
        [fits[name][part][number] for name, part, number in places],
        [f"reward-bench-2/{name}/{part}/{number}" for name, part, number in places],
        sampling,
    )
    texts = {place: completion.text for place, completion in zip(places, completions, strict=True)}
    said = {
        name: [[texts[name, part, number] for number in range(len(several))] for part, several in enumerate(parts)]
        for name, parts in fits.items()
    }
    return {
        name: {"rewards": [[parse_rating(text) for text in several] for several in parts], "texts": parts}
        for name, parts in said.items()
    }


def _rate(item: BestOfItem, question: BestOfQuestion, response: str) -> list[Message]:
    prompt = item["judge_prompt"]
    values = {"question": question["prompt"], "answer": response}
    return [
        {"role": "system", "content": prompt["system"]},
        {"role": "user", "content": fill(prompt["template"], values)},
    ]


def _means(values: Mapping[str, float], subset: Mapping[str, str]) -> dict[str, float]:
    grouped: dict[str, list[float]] = defaultdict(list)
    for identifier, value in values.items():
        grouped[subset[identifier]].append(value)
    return {name: fmean(members) for name, members in sorted(grouped.items())}


def _lengths(item: BestOfItem) -> list[list[float]]:
    return [[float(len(text)) for text in question["responses"]] for question in item["questions"]]


def _first(item: BestOfItem) -> list[list[float]]:
    """Prefer the response that comes first in a random order, which the item's id decides."""
    lot = int.from_bytes(hashlib.sha256(item["id"].encode()).digest()[:8])
    return [
        [float(place == lot % len(question["responses"])) for place in range(len(question["responses"]))]
        for question in item["questions"]
    ]
