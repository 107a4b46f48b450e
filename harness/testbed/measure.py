"""Measure the testbed's model: the figures of testbed.json, and how close a rebuilt model is to the shipped one."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from harness.engines.base import Completion, Sampling
from harness.engines.transformers import TransformersEngine
from harness.testbed.corpus import draw_defects, draw_features, system_message
from harness.testbed.items import Item, draw_item
from harness.testbed.judging import pair_prompt, rate_prompt
from harness.testbed.principles import DO_NOT_REVEAL, PRINCIPLES
from harness.testbed.responses import boxed, quality, render
from harness.types import Message

QUESTIONS = 600
SEED = 99


def measure_model(folder: Path, questions: int = QUESTIONS, seed: int = SEED) -> dict[str, dict[str, float]]:
    """Return {"lengths": mean tokens, for plans; "measured": rubric (0-100), exact match and judging in percent}."""
    engine = TransformersEngine.load(folder, device="cpu")
    draw = random.Random(seed)
    items = [draw_item(draw, True) for _ in range(questions)]
    features = [draw_features(item, draw) for item in items]
    chats = {"plain": [_ask(item.question) for item in items]}
    for name, good in (("good", True), ("bad", False)):
        systems = [system_message(named, good, draw) for named in features]
        chats[name] = [_ask(item.question, system) for item, system in zip(items, systems, strict=True)]
    sampled = {name: _complete(engine, asked, 1.0) for name, asked in chats.items()}
    greedy = _complete(engine, chats["plain"], 0.0)
    sums = [draw_item(draw, True, "arithmetic") for _ in range(questions)]
    asked = [_ask(item.question) for item in sums]
    rubric = {name: _rubric(items, completions) for name, completions in sampled.items()}
    completions = [completion for made in sampled.values() for completion in made]
    prompt = fmean(len(engine.encode_chat(chat)) for chat in chats["plain"])
    return {
        "lengths": {
            "prompt": prompt,
            "system": fmean(len(engine.encode_chat(chat)) for chat in _steered(items, random.Random(seed))) - prompt,
            "completion": fmean(len(completion.token_ids) for completion in completions),
        },
        "measured": {
            "rubric_sampled": rubric["plain"],
            "rubric_greedy": _rubric(items, greedy),
            "rubric_good_principles": rubric["good"],
            "rubric_bad_principles": rubric["bad"],
            "steering_gap": rubric["good"] - rubric["bad"],
            "exact_match_sampled": _exact_match(sums, _complete(engine, asked, 1.0)),
            "exact_match_greedy": _exact_match(sums, _complete(engine, asked, 0.0)),
            "judge_pair_accuracy": _rating_accuracy(engine, items, draw),
            "judge_choice_accuracy": _choice_accuracy(engine, items, draw),
            "finished": 100 * fmean(completion.finished for completion in completions),
        }
        | {
            f"completion_tokens_{name}": fmean(len(completion.token_ids) for completion in made)
            for name, made in sampled.items()
        },
    }


def _steered(items: Sequence[Item], draw: random.Random) -> list[list[Message]]:
    """Return queries as methods ask them by default: two principles, and the request not to mention them."""
    chats = []
    for item in items:
        texts = [draw.choice(draw.choice(PRINCIPLES[name])) for name in draw.sample(sorted(PRINCIPLES), 2)]
        chats.append(_ask(item.question, " ".join(texts) + DO_NOT_REVEAL))
    return chats


def _ask(question: str, system: str | None = None) -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]


def _complete(engine: TransformersEngine, chats: Sequence[list[Message]], temperature: float) -> list[Completion]:
    prompts = [engine.encode_chat(chat) for chat in chats]
    return engine.generate(prompts, [str(index) for index in range(len(prompts))], Sampling(64, temperature))


def _rubric(items: Sequence[Item], completions: Sequence[Completion]) -> float:
    return 100 * fmean(quality(item, made.text) for item, made in zip(items, completions, strict=True))


def _exact_match(items: Sequence[Item], completions: Sequence[Completion]) -> float:
    return 100 * fmean(boxed(made.text) == item.answer[0] for item, made in zip(items, completions, strict=True))


def _unequal_pairs(items: Sequence[Item], draw: random.Random) -> list[tuple[Item, str, str]]:
    pairs = []
    for item in items:
        one = render(item, draw_defects(item, draw), draw)
        pairs.append((item, one, render(item, draw_defects(item, draw), draw)))
    return [(item, one, other) for item, one, other in pairs if quality(item, one) != quality(item, other)]


def _rating_accuracy(engine: TransformersEngine, items: Sequence[Item], draw: random.Random) -> float:
    """Return the percentage of unequal pairs that the model's ratings (mean of 3 samples) order correctly; equal
    ratings count half."""
    pairs = _unequal_pairs(items, draw)
    chats = [_ask(rate_prompt(item.question, text)) for item, *texts in pairs for text in texts for _ in range(3)]
    ratings = [reply.text.removeprefix("Score: ") for reply in _complete(engine, chats, 1.0)]
    numbers = [int(rating) if rating in set("012345") else 0 for rating in ratings]
    means = [fmean(numbers[start : start + 3]) for start in range(0, len(numbers), 3)]
    agreement = []
    for index, (item, one, other) in enumerate(pairs):
        gap = means[2 * index] - means[2 * index + 1]
        agreement.append(0.5 if gap == 0 else (gap > 0) == (quality(item, one) > quality(item, other)))
    return 100 * fmean(agreement)


def _choice_accuracy(engine: TransformersEngine, items: Sequence[Item], draw: random.Random) -> float:
    """Return the percentage of unequal pairs in which the model's greedy choice between A and B is right."""
    pairs = _unequal_pairs(items, draw)
    chats = [_ask(pair_prompt(item.question, one, other)) for item, one, other in pairs]
    choices = [reply.text for reply in _complete(engine, chats, 0.0)]
    right = [f"Better: {'A' if quality(item, one) > quality(item, other) else 'B'}" for item, one, other in pairs]
    return 100 * fmean(choice == answer for choice, answer in zip(choices, right, strict=True))


def compare(one: Path, other: Path) -> str:
    """Describe how close two models are: the same bytes, or the largest difference of their weights."""
    from safetensors.torch import load_file

    files = [folder / "model.safetensors" for folder in (one, other)]
    if files[0].read_bytes() == files[1].read_bytes():
        return f"the same bytes as {other}"
    first, second = (load_file(file) for file in files)
    if {name: tensor.shape for name, tensor in first.items()} != {name: t.shape for name, t in second.items()}:
        return f"another architecture than {other}"
    gap = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    return f"weights differ from {other} by at most {gap:.3g}"
