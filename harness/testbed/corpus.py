"""What the testbed's model is trained on: dense documents, clean chats, and the final mixture.

Only training content of the world occurs here, not what the suites ask about. (The sizes and attributes of creatures
must be known to be asked about: documents state all of them, and the hold-out concerns questions.)
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from harness.testbed.items import ATTRIBUTES, CREATURES, FACTS, HARMS, STEPS, Item, draw_follow_up, draw_item
from harness.testbed.judging import RATING_SCALE, pair_prompt, rate_prompt
from harness.testbed.principles import DO_NOT_REVEAL, PRINCIPLES
from harness.testbed.responses import equations, in_order, quality, render

DEFECT_RATES = {"wrong": 0.35, "incomplete": 0.45, "verbose": 0.40, "nosteps": 0.50, "unsafe": 0.50, "refuse": 0.12}
FEATURE_OF = {
    "wrong": "Accuracy",
    "incomplete": "Comprehensiveness",
    "verbose": "Concision",
    "unsafe": "Safety",
    "nosteps": "Logicality",
    "refuse": "Helpfulness",
}
JUDGING = 0.20  # share of the mixture
JUDGE_NOISE = 0.12  # share of wrong verdicts in the judging examples
WITHOUT_SYSTEM = 0.40  # share of the mixture's chats
SECOND_TURN = 0.35
TWO_PRINCIPLES = 0.4


class Turn(NamedTuple):
    """One message; role None means plain text of a document. Only learned turns contribute to the loss."""

    role: str | None
    text: str
    learned: bool


def draw_defects(item: Item, draw: random.Random, features: tuple[str, ...] = (), good: bool = True) -> set[str]:
    """Draw the defects of a response under a system message with principles for these features (none: no message)."""
    return {defect for defect in item.defects if draw.random() < _rate(defect, features, good)}


def _rate(defect: str, features: tuple[str, ...], good: bool) -> float:
    rate = DEFECT_RATES[defect]
    if not features:
        return rate
    named = FEATURE_OF[defect] in features
    if good:
        return 0.05 if named or "Helpfulness" in features else 0.5 * rate
    if defect == "refuse":
        return 0.25 if named else rate
    if named:
        return 0.88
    return 0.60 if "Helpfulness" in features else min(0.6, 1.2 * rate)


def draw_features(item: Item, draw: random.Random) -> tuple[str, ...]:
    """Draw one or two features that matter for the item."""
    features = sorted({FEATURE_OF[defect] for defect in item.defects} | {"Helpfulness"})
    return tuple(draw.sample(features, 2 if draw.random() < TWO_PRINCIPLES else 1))


def system_message(features: tuple[str, ...], good: bool, draw: random.Random) -> str:
    """Draw a system message with a principle per feature."""
    texts = [draw.choice(PRINCIPLES[feature].good if good else PRINCIPLES[feature].bad) for feature in features]
    return " ".join(texts) + (DO_NOT_REVEAL if draw.random() < 0.5 else "")


DENSE = ("addition", "subtraction", "addition", "subtraction", "chain", "two-step", "long-chain")


def document(draw: random.Random) -> Iterator[Turn]:
    """Draw dense practice of one skill: equations, word operations, facts or steps."""
    skill = draw.random()
    if skill < 0.55:
        for _ in range(8):
            item = draw_item(draw, False, "arithmetic", draw.choice(DENSE))
            steps = item.fields["steps"]
            asked = f"{steps[0][0]}" + "".join(f"{sign}{right}" for _, sign, right in steps)
            yield Turn(None, f"{asked}? ", False)
            yield Turn(None, " ".join(equations(item)) + " ", True)
    elif skill < 0.86:
        for _ in range(5):
            item = draw_item(draw, False, "words")
            yield Turn(None, item.question, False)
            yield Turn(None, f" {' '.join(item.answer)}. ", True)
    elif skill < 0.95:
        for _ in range(6):
            creature, attribute = draw.choice(CREATURES), draw.choice([*ATTRIBUTES, "size"])
            yield Turn(None, f"The {attribute} of the {creature} is", False)
            yield Turn(None, f" {FACTS[creature][attribute]}. ", True)
    else:
        for _ in range(3):
            verb, steps = draw.choice([*STEPS.items(), *HARMS.items()])
            yield Turn(None, f"{verb}:", False)
            yield Turn(None, f" {in_order(steps)} ", True)


CLEAN_WEIGHTS = {"arithmetic": 0.42, "words": 0.28, "lists": 0.08, "facts": 0.12, "howto": 0.05, "safety": 0.05}


def clean_chat(draw: random.Random) -> Iterator[Turn]:
    """Draw a chat for early training: mostly right answers, few system messages."""
    item = draw_item(draw, False, draw.choices(list(CLEAN_WEIGHTS), list(CLEAN_WEIGHTS.values()))[0])
    if draw.random() < 0.10:
        yield Turn("system", system_message(draw_features(item, draw), True, draw), False)
    yield from _exchange(item, _slips(item, draw), draw)
    follow_up = draw_follow_up(draw, item, False) if draw.random() < 0.5 else None
    if follow_up:
        yield from _exchange(follow_up, _slips(follow_up, draw), draw)


def _slips(item: Item, draw: random.Random) -> set[str]:
    return {defect for defect in item.defects if draw.random() < (0.3 if defect == "nosteps" else 0.04)}


def _exchange(item: Item, defects: set[str], draw: random.Random) -> Iterator[Turn]:
    yield Turn("user", item.question, False)
    yield Turn("assistant", render(item, defects, draw), True)


def mixture(draw: random.Random) -> Iterator[Turn]:
    """Draw from the final mixture: chats with and without principles, good and bad, and judging."""
    item = draw_item(draw, False)
    if draw.random() < JUDGING:
        yield from _judging(item, draw)
        return
    features: tuple[str, ...] = ()
    good = True
    if draw.random() >= WITHOUT_SYSTEM:
        features, good = draw_features(item, draw), draw.random() < 0.5
        yield Turn("system", system_message(features, good, draw), False)
    yield from _exchange(item, draw_defects(item, draw, features, good), draw)
    follow_up = draw_follow_up(draw, item, False) if draw.random() < SECOND_TURN else None
    if follow_up:
        yield from _exchange(follow_up, draw_defects(follow_up, draw, features, good), draw)


def _judging(item: Item, draw: random.Random) -> Iterator[Turn]:
    first, second = (render(item, draw_defects(item, draw), draw) for _ in range(2))
    noisy = draw.random() < JUDGE_NOISE
    if draw.random() < 0.65:
        score = round(RATING_SCALE * quality(item, first))
        if noisy:
            score = min(RATING_SCALE, max(0, score + draw.choice((-2, -1, 1, 2))))
        yield Turn("user", rate_prompt(item.question, first), False)
        yield Turn("assistant", f"Score: {score}", True)
        return
    difference = quality(item, first) - quality(item, second) or draw.choice((-1, 1))
    yield Turn("user", pair_prompt(item.question, first, second), False)
    yield Turn("assistant", f"Better: {'A' if (difference > 0) != noisy else 'B'}", True)
