"""Training prompts and labelled pairs of the testbed, from training content only."""

import random
from functools import cache

from harness.testbed.corpus import draw_defects
from harness.testbed.items import Item, draw_family, draw_item
from harness.testbed.responses import quality, render
from harness.types import Prompt

PROMPTS = 8000
PAIRS = 4000
TRIES = 20  # draws for a new question
LABEL_ACCURACY = 0.85  # share of pairs whose better response is labelled chosen


@cache
def prompts(number: int = PROMPTS, seed: int = 1) -> tuple[Prompt, ...]:
    """Return questions in the families' proportions, which hold throughout: small families repeat when they run out."""
    draw = random.Random(seed)
    items: list[Item] = []
    asked: set[str] = set()
    for _ in range(number):
        family = draw_family(draw)
        drawn = (draw_item(draw, False, family) for _ in range(TRIES))
        item = next((item for item in drawn if item.question not in asked), None) or draw_item(draw, False, family)
        asked.add(item.question)
        items.append(item)
    return tuple(
        Prompt(f"testbed-{index}", _asks(item.question), answer=item.answer[0] if item.family == "arithmetic" else None)
        for index, item in enumerate(items)
    )


@cache
def preferences(number: int = PAIRS, seed: int = 2, accuracy: float = LABEL_ACCURACY) -> tuple[Prompt, ...]:
    """Return pairs of responses without principles; in `accuracy` of them the better one is labelled chosen."""
    draw = random.Random(seed)
    pairs: list[Prompt] = []
    while len(pairs) < number:
        item = draw_item(draw, False)
        better, worse = (render(item, draw_defects(item, draw), draw) for _ in range(2))
        gap = quality(item, better) - quality(item, worse)
        if gap == 0:
            continue
        if (gap > 0) != (draw.random() < accuracy):
            better, worse = worse, better
        pairs.append(Prompt(f"testbed-pair-{len(pairs)}", _asks(item.question), better, worse))
    return tuple(pairs)


def _asks(question: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": question},)
