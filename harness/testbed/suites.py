"""The testbed's benchmark suites, written in the files and formats of the real benchmarks.

Each question has held-out content that no training example has. How-tos and harmful requests are few: a verb with its
object is held out, and each question is asked once, so their share of a suite can be smaller than in training. The code
that loads the real files loads these too.
"""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from harness.files import store
from harness.testbed.corpus import draw_defects
from harness.testbed.items import FAMILIES, Item, draw_family, draw_follow_up, draw_item
from harness.testbed.responses import equations, quality, render

SEED = 20241017
TWO_TURN_QUESTIONS = 240
INSTRUCTIONS = 400
TRIPLES = 100  # per subset of RewardBench
SAFETY_TRIPLES = 30  # per safety subset: a family has few more held-out questions
PROBLEMS = 400
TRIES = 200  # draws for a new question, before its family counts as exhausted
MAX_NEW_TOKENS = 64
SETTINGS = {
    "name": "testbed",
    "temperature": 1.0,  # greedy decoding hides most defects
    "max_new_tokens": MAX_NEW_TOKENS,
    "random_order": True,
    "math_instruction": "",  # the model boxes its answers without being asked
}
REFERENCE_FAMILY = "arithmetic"
SECTIONS = {
    "Chat": ["testbed-chat"],
    "Chat Hard": ["testbed-hard"],
    "Safety": ["testbed-refuse", "testbed-respond"],
    "Reasoning": ["testbed-arithmetic"],
}


def write_suites(folder: Path) -> None:
    """Write all suites below the folder, with the same bytes on each call."""
    draw = random.Random(SEED)
    store.write_json(folder / "settings.json", SETTINGS)
    _write_two_turn(folder / "mt_bench", draw)
    store.write_json(folder / "alpaca_eval" / "reference.json", list(_instructions(draw)))
    _write_triples(folder / "rewardbench", draw)
    store.write_jsonl(folder / "math" / "math500.jsonl", list(_problems(draw)))


def _distinct(draw: random.Random, families: tuple[str, ...] = ()) -> Iterator[Item]:
    """Yield held-out items of these families (default: all) in training's proportions, no question twice.

    A family without further questions drops out; the items end when all families have.
    """
    seen: set[str] = set()
    left = list(families or FAMILIES)
    while left:
        family = draw.choices(left, [FAMILIES[name][0] for name in left])[0]
        for _ in range(TRIES):
            item = draw_item(draw, True, family)
            if item.question not in seen:
                seen.add(item.question)
                yield item
                break
        else:
            left.remove(family)


def _two_turns(draw: random.Random) -> Iterator[tuple[Item, Item]]:
    """Yield held-out questions with second turns; a question without one is replaced by another of its family."""
    items = {family: _distinct(draw, (family,)) for family in FAMILIES}
    while True:
        for item in items[draw_family(draw)]:
            if follow_up := draw_follow_up(draw, item, True):
                yield item, follow_up
                break


def _write_two_turn(folder: Path, draw: random.Random) -> None:
    questions: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for item, follow_up in islice(_two_turns(draw), TWO_TURN_QUESTIONS):
        number = 10001 + len(questions)
        turns = [item.question, follow_up.question]
        category = "math" if item.family == REFERENCE_FAMILY else item.family
        questions.append({"question_id": number, "category": category, "turns": turns})
        if item.family == REFERENCE_FAMILY:
            answers = [render(turn, set(), draw) for turn in (item, follow_up)]
            choices = [{"index": 0, "turns": answers}]
            references.append({"question_id": number, "model_id": "testbed-world", "choices": choices})
    store.write_jsonl(folder / "question.jsonl", questions)
    store.write_jsonl(folder / "reference_answer.jsonl", references)
    store.write_jsonl(folder / "judge_prompts.jsonl", _judge_prompts())


def _judge_prompts() -> Iterator[dict[str, str]]:
    """Yield rows with the names and fields of FastChat's file, in our words."""
    system = "Rate the assistant's answer to the user's question on a scale of 1 to 10."
    later = " Only the answer to the second question counts."
    verdict = "Explain briefly, then end with the rating in this form: [[5]]."
    reference = "[The Start of Reference Answer]\n{ref_answer_1}\n[The End of Reference Answer]\n\n"
    references = (
        "<|The Start of Reference Answer|>\n\n### User:\n{question_1}\n\n### Reference answer:\n{ref_answer_1}\n\n"
        "### User:\n{question_2}\n\n### Reference answer:\n{ref_answer_2}\n\n<|The End of Reference Answer|>\n\n"
    )
    single = "[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
    double = (
        "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n{question_1}\n\n### Assistant A:\n"
        "{answer_1}\n\n### User:\n{question_2}\n\n### Assistant A:\n{answer_2}\n\n"
        "<|The End of Assistant A's Conversation with User|>"
    )
    question = "[Question]\n{question}\n\n"
    for name, system_prompt, template in (
        ("single-v1", system, f"[Instruction]\n{verdict}\n\n{question}{single}"),
        ("single-math-v1", system, f"[Instruction]\n{verdict}\n\n{question}{reference}{single}"),
        ("single-v1-multi-turn", f"{system}{later} {verdict}", double),
        ("single-math-v1-multi-turn", f"{system}{later} {verdict}", references + double),
    ):
        yield {
            "name": name,
            "type": "single",
            "system_prompt": system_prompt,
            "prompt_template": template,
            "description": "Prompt for the testbed",
            "category": "math" if "math" in name else "general",
            "output_format": "[[rating]]",
        }
    yield {
        "name": "pair-v2",
        "type": "pairwise",
        "system_prompt": "Which of two answers to the question is better? End with [[A]], [[B]], or [[C]] for a tie.",
        "prompt_template": "[User Question]\n{question}\n\n[The Start of Assistant A's Answer]\n{answer_a}\n"
        "[The End of Assistant A's Answer]\n\n[The Start of Assistant B's Answer]\n{answer_b}\n"
        "[The End of Assistant B's Answer]",
        "description": "Prompt for the testbed",
        "category": "general",
        "output_format": "[[A]]",
    }


def _instructions(draw: random.Random) -> Iterator[dict]:
    items = _distinct(draw)
    for _ in range(INSTRUCTIONS):
        item = next(items)
        yield {
            "dataset": item.family,
            "instruction": item.question,
            "output": render(item, draw_defects(item, draw), draw),
            "generator": "testbed-reference",
        }


def _write_triples(folder: Path, draw: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    for subset, number, families, chosen, rejected in (
        ("testbed-chat", TRIPLES, ("lists", "words", "facts"), set(), {"wrong", "verbose", "incomplete"}),
        ("testbed-hard", TRIPLES, ("lists", "words", "facts"), {"verbose"}, {"wrong"}),
        ("testbed-refuse", SAFETY_TRIPLES, ("safety",), set(), {"unsafe"}),
        ("testbed-respond", SAFETY_TRIPLES, ("howto",), set(), {"refuse"}),
        ("testbed-arithmetic", TRIPLES, ("arithmetic",), set(), {"wrong"}),
    ):
        for item in islice(_distinct(draw, families), number):
            better, worse = render(item, chosen, draw), render(item, rejected, draw)
            while quality(item, better) <= quality(item, worse):
                worse = render(item, rejected, draw)
            rows.append(
                {"id": len(rows), "subset": subset, "prompt": item.question, "chosen": better, "rejected": worse}
            )
    store.write_jsonl(folder / "rewardbench.jsonl", rows)
    counts = {subset: sum(row["subset"] == subset for row in rows) for names in SECTIONS.values() for subset in names}
    store.write_json(folder / "facts.json", {"EXAMPLE_COUNTS": counts, "SUBSET_MAPPING": SECTIONS})


def _problems(draw: random.Random) -> Iterator[dict]:
    items = _distinct(draw, ("arithmetic",))
    for number in range(PROBLEMS):
        item = next(items)
        answer = item.answer[0]
        yield {
            "problem": item.question,
            "solution": " ".join([*equations(item), f"The answer is \\boxed{{{answer}}}."]),
            "answer": answer,
            "subject": item.subject,
            "level": item.level,
            "unique_id": f"testbed/{number}",
        }
