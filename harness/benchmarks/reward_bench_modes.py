"""The three ways in which a model says which of two responses it prefers: one row per pair.

A row has "id" and "mode", and either the rewards (or log-probabilities) of both responses or the model's verdict. A
pair that does not fit the model's context has "too_long" and nothing else: it is counted as missing.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.rows import PairSample, RewardBenchItem
from harness.engines.base import Engine, LogProb, RewardEngine, Sampling
from harness.judges.templates import fill
from harness.judges.verdicts import parse_choice
from harness.progress import Advance
from harness.types import Message, TokenIds

SIDES = ("chosen", "rejected")
IMPLICIT, CLASSIFIER, GENERATIVE = "implicit", "classifier", "generative"
VERDICT_TOKENS = 1024
Encoded = tuple[TokenIds, list[TokenIds]]  # a prompt and its responses


def too_long(item: RewardBenchItem, mode: str) -> PairSample:
    """Return the row of a pair that does not fit the context."""
    return {"id": item["id"], "mode": mode, "too_long": True}


def implicit_rows(policy: Policy, items: Sequence[RewardBenchItem], advance: Advance | None) -> list[PairSample]:
    """Return the log-probabilities of both responses under the policy and, if there is one, its reference."""
    encoded = _encoded(policy.engine, items, advance)
    scores = _logprobs(policy.engine, encoded, advance)
    reference = _logprobs(policy.reference, encoded, None) if policy.reference else None
    rows: dict[str, PairSample] = {}
    for identifier in encoded:
        chosen, rejected = (scores[identifier, side] for side in SIDES)
        rows[identifier] = {
            "id": identifier,
            "mode": IMPLICIT,
            "beta": policy.beta,
            "chosen_logprob": chosen.total,
            "chosen_tokens": chosen.tokens,
            "chosen_reference_logprob": reference[identifier, "chosen"].total if reference else None,
            "rejected_logprob": rejected.total,
            "rejected_tokens": rejected.tokens,
            "rejected_reference_logprob": reference[identifier, "rejected"].total if reference else None,
        }
    return [rows.get(item["id"]) or too_long(item, IMPLICIT) for item in items]


def _encoded(
    engine: Engine | RewardEngine, items: Sequence[RewardBenchItem], advance: Advance | None
) -> dict[str, Encoded]:
    """Encode each pair that fits the context as the chat template writes it: id -> prompt and both responses."""
    encoded = {}
    for item in items:
        chat = [{"role": "user", "content": item["prompt"]}]
        prompt, responses = engine.encode_replies(chat, [item["chosen"], item["rejected"]])
        if len(prompt) + max(map(len, responses)) <= engine.context_length:
            encoded[item["id"]] = prompt, responses
    if advance:
        advance(len(SIDES) * (len(items) - len(encoded)))
    return encoded


def _logprobs(
    engine: Engine, encoded: Mapping[str, Encoded], advance: Advance | None
) -> dict[tuple[str, str], LogProb]:
    """Return (id, side) -> log-probability; both responses are in one call, so that they share their prompt."""
    scored = engine.logprobs(
        [prompt for prompt, responses in encoded.values() for _ in responses],
        [response for _, responses in encoded.values() for response in responses],
        advance,
    )
    places = [(identifier, side) for identifier in encoded for side in SIDES]
    return dict(zip(places, scored, strict=True))


def classifier_rows(model: RewardEngine, items: Sequence[RewardBenchItem], advance: Advance | None) -> list[PairSample]:
    """Return the rewards of both responses from a sequence classifier."""
    encoded = _encoded(model, items, advance)
    prompts = [prompt for prompt, _ in encoded.values()]
    chosen, rejected = (
        model.rewards(prompts, [responses[place] for _, responses in encoded.values()], advance)
        for place in range(len(SIDES))
    )
    rows: dict[str, PairSample] = {
        identifier: {"id": identifier, "mode": CLASSIFIER, "chosen_reward": first, "rejected_reward": second}
        for identifier, first, second in zip(encoded, chosen, rejected, strict=True)
    }
    return [rows.get(item["id"]) or too_long(item, CLASSIFIER) for item in items]


def generative_rows(
    engine: Engine,
    items: Sequence[RewardBenchItem],
    settings: Settings,
    both_orders: bool,
    advance: Advance | None,
) -> list[PairSample]:
    """Return the model's own verdicts on the pairs, asked for with FastChat's prompt for pairs.

    The order of a pair is seeded, and half of the pairs show the chosen response first; with both_orders each pair is
    asked in both. "choices" holds what each asking chose: "chosen", "rejected", "tie", or None for no verdict.
    """
    sampling = Sampling(settings.max_new_tokens or VERDICT_TOKENS, settings.temperature or 0.0, seed=settings.seed)
    first = chosen_first([item["id"] for item in items], settings.seed)
    asked = [(item, order) for item in items for order in ((True, False) if both_orders else (first[item["id"]],))]
    prompts = [engine.encode_chat(_question(item, order)) for item, order in asked]
    fits = [place for place, prompt in enumerate(prompts) if len(prompt) + VERDICT_TOKENS // 8 <= engine.context_length]
    completions = engine.generate(
        [prompts[place] for place in fits],
        [f"reward-bench/{asked[place][0]['id']}/{'chosen' if asked[place][1] else 'rejected'}-first" for place in fits],
        sampling,
        advance,
    )
    choices: dict[str, list[str | None]] = {item["id"]: [] for item in items}
    texts: dict[str, list[str]] = {item["id"]: [] for item in items}
    for place, completion in zip(fits, completions, strict=True):
        item, order = asked[place]
        choice = parse_choice(completion.text)
        sides = {"A": SIDES[not order], "B": SIDES[order], "tie": "tie", None: None}
        choices[item["id"]].append(sides[choice])
        texts[item["id"]].append(completion.text)
    return [
        {"id": item["id"], "mode": GENERATIVE, "choices": choices[item["id"]], "texts": texts[item["id"]]}
        if texts[item["id"]]
        else too_long(item, GENERATIVE)
        for item in items
    ]


def chosen_first(identifiers: Sequence[str], seed: int) -> dict[str, bool]:
    """Return which pairs show the chosen response first: half of them, rounded up."""
    shuffled = sorted(identifiers)
    random.Random(f"reward-bench/{seed}").shuffle(shuffled)
    return {identifier: place % 2 == 0 for place, identifier in enumerate(shuffled)}


def _question(item: RewardBenchItem, order: bool) -> list[Message]:
    responses = item["chosen"], item["rejected"]
    first, second = responses if order else responses[::-1]
    values = {"question": item["prompt"], "answer_a": first, "answer_b": second}
    prompt = item["judge_prompt"]
    return [
        {"role": "system", "content": prompt["system"]},
        {"role": "user", "content": fill(prompt["template"], values)},
    ]


def outcome(row: PairSample) -> float | None:
    """Return 1 if the chosen response is preferred, 0 if it is not, None if it is unknown.

    Equal rewards give 0, as in the official code, and a tied verdict 0.5. Both orders of a pair are averaged.
    """
    if row.get("too_long"):
        return None
    if row["mode"] == GENERATIVE:
        values = [{"chosen": 1.0, "rejected": 0.0, "tie": 0.5}[choice] for choice in row["choices"] if choice]
        return sum(values) / len(values) if values else None
    return float(reward(row, "chosen") > reward(row, "rejected"))


def reward(row: PairSample, side: str) -> float:
    """Return the reward of a response: the classifier's, or beta * (log pi - log pi_ref), or without a reference the
    mean log-probability per token."""
    values: Mapping[str, Any] = row
    if row["mode"] == CLASSIFIER:
        return values[f"{side}_reward"]
    reference = values[f"{side}_reference_logprob"]
    if reference is None:
        return values[f"{side}_logprob"] / values[f"{side}_tokens"]
    return values["beta"] * (values[f"{side}_logprob"] - reference)
