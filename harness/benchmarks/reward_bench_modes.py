"""The three ways in which a model says which of two responses it prefers: one row of results a pair.

A row has "id" and "mode", and either the rewards (or log-probabilities) of both responses or the model's verdict. A
pair that does not fit the model's context has "too_long" and nothing else: it is missing, and counted.
"""

import random
from collections.abc import Mapping, Sequence

from harness.benchmarks.base import Policy, Settings
from harness.engines.base import Engine, LogProb, Sampling
from harness.judges.templates import fill
from harness.judges.verdicts import parse_choice
from harness.progress import Advance
from harness.types import Message, TokenIds

SIDES = ("chosen", "rejected")
IMPLICIT, CLASSIFIER, GENERATIVE = "implicit", "classifier", "generative"
VERDICT_TOKENS = 1024
Encoded = tuple[TokenIds, list[TokenIds]]  # a prompt and its responses


def too_long(item: Mapping, mode: str) -> dict:
    return {"id": item["id"], "mode": mode, "too_long": True}


def implicit_rows(policy: Policy, items: Sequence[dict], advance: Advance | None) -> list[dict]:
    """Log-probabilities of both responses under the policy and, where there is one, its reference."""
    encoded = _encoded(policy.engine, items, advance)
    own = _logprobs(policy.engine, encoded, advance)
    reference = _logprobs(policy.reference, encoded, None) if policy.reference else None
    rows = {}
    for item in (item for item in items if item["id"] in encoded):
        row = {"id": item["id"], "mode": IMPLICIT, "beta": policy.beta}
        for side in SIDES:
            scored = own[item["id"], side]
            row[f"{side}_logprob"], row[f"{side}_tokens"] = scored.total, scored.tokens
            row[f"{side}_reference_logprob"] = reference[item["id"], side].total if reference else None
        rows[item["id"]] = row
    return [rows.get(item["id"]) or too_long(item, IMPLICIT) for item in items]


def _encoded(engine: Engine, items: Sequence[dict], advance: Advance | None) -> dict[str, Encoded]:
    """id -> prompt and the two responses of each pair that fits the context, as the chat template writes them."""
    encoded = {}
    for item in items:
        chat = [{"role": "user", "content": item["prompt"]}]
        prompt, responses = engine.encode_replies(chat, [item[side] for side in SIDES])
        if len(prompt) + max(map(len, responses)) <= engine.context_length:
            encoded[item["id"]] = prompt, responses
    if advance:
        advance(len(SIDES) * (len(items) - len(encoded)))
    return encoded


def _logprobs(
    engine: Engine, encoded: Mapping[str, Encoded], advance: Advance | None
) -> dict[tuple[str, str], LogProb]:
    """(id, side) -> log-probability; both responses in one call, so that they share their prompt."""
    scored = engine.logprobs(
        [prompt for prompt, responses in encoded.values() for _ in responses],
        [response for _, responses in encoded.values() for response in responses],
        advance,
    )
    places = [(identifier, side) for identifier in encoded for side in SIDES]
    return dict(zip(places, scored, strict=True))


def classifier_rows(model, items: Sequence[dict], advance: Advance | None) -> list[dict]:
    """Rewards of both responses by a sequence classifier (`harness.engines.classifier.RewardModel`)."""
    encoded = _encoded(model, items, advance)
    prompts = [prompt for prompt, _ in encoded.values()]
    rewards = {
        side: dict(
            zip(
                encoded,
                model.rewards(prompts, [responses[place] for _, responses in encoded.values()], advance),
                strict=True,
            )
        )
        for place, side in enumerate(SIDES)
    }
    return [
        {"id": item["id"], "mode": CLASSIFIER, **{f"{side}_reward": rewards[side][item["id"]] for side in SIDES}}
        if item["id"] in rewards["chosen"]
        else too_long(item, CLASSIFIER)
        for item in items
    ]


def generative_rows(
    engine: Engine,
    items: Sequence[dict],
    settings: Settings,
    both_orders: bool,
    advance: Advance | None,
) -> list[dict]:
    """The model's own verdicts on the pairs, asked with FastChat's prompt for pairs.

    The order of a pair is seeded, and half of the pairs have the chosen response first; with both_orders each pair is
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
    rows = {item["id"]: {"id": item["id"], "mode": GENERATIVE, "choices": [], "texts": []} for item in items}
    for place, completion in zip(fits, completions, strict=True):
        item, order = asked[place]
        choice = parse_choice(completion.text)
        sides = {"A": SIDES[not order], "B": SIDES[order], "tie": "tie", None: None}
        rows[item["id"]]["choices"].append(sides[choice])
        rows[item["id"]]["texts"].append(completion.text)
    return [rows[item["id"]] if rows[item["id"]]["texts"] else too_long(item, GENERATIVE) for item in items]


def chosen_first(identifiers: Sequence[str], seed: int) -> dict[str, bool]:
    """Which pairs show the chosen response first: exactly half of them (one more of an odd number, or one less)."""
    shuffled = sorted(identifiers)
    random.Random(f"reward-bench/{seed}").shuffle(shuffled)
    return {identifier: place % 2 == 0 for place, identifier in enumerate(shuffled)}


def _question(item: Mapping, order: bool) -> list[Message]:
    first, second = (item[side] for side in (SIDES if order else SIDES[::-1]))
    values = {"question": item["prompt"], "answer_a": first, "answer_b": second}
    prompt = item["judge_prompt"]
    return [
        {"role": "system", "content": prompt["system"]},
        {"role": "user", "content": fill(prompt["template"], values)},
    ]


def outcome(row: Mapping) -> float | None:
    """1 where the chosen response is preferred, 0 where it is not, None where nothing is known.

    A tie of rewards is 0, as in the official code, and one of verdicts 0.5. Both orders of a pair are averaged.
    """
    if row.get("too_long"):
        return None
    if row["mode"] == GENERATIVE:
        values = [{"chosen": 1.0, "rejected": 0.0, "tie": 0.5}[choice] for choice in row["choices"] if choice]
        return sum(values) / len(values) if values else None
    return float(reward(row, "chosen") > reward(row, "rejected"))


def reward(row: Mapping, side: str) -> float:
    """Reward of a response: the classifier's, or beta * (log pi - log pi_ref), or without a reference the mean
    log-probability of a token."""
    if row["mode"] == CLASSIFIER:
        return row[f"{side}_reward"]
    reference = row[f"{side}_reference_logprob"]
    if reference is None:
        return row[f"{side}_logprob"] / row[f"{side}_tokens"]
    return row["beta"] * (row[f"{side}_logprob"] - reference)
