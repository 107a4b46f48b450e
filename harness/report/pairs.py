"""Training examples for the sample browser of the page: chosen beside rejected, with principles and ratings."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from harness.files import store
from harness.files.folders import ArmFolder
from harness.report.run import ReportedRun
from harness.report.samples import Block, Part, Texts, pack
from harness.types import message_text, question_text

MOST = 50  # examples per stage and seed, the first ones
MOST_BYTES = 1_000_000  # of all blocks, compressed
SIDES = ("chosen", "rejected")
INNER = ("id", "sequences", "prompt", "chosen", "rejected", "chosen_rating", "rejected_rating")


def training_blocks(run: ReportedRun) -> list[Block]:
    """One block per method and stage: the first MOST examples of each seed, fewer if that exceeds MOST_BYTES.

    Its "methods" are "chosen" and "rejected", with the judge's ratings as values where there are any.
    """
    most = MOST
    while True:
        blocks = list(_blocks(run, most))
        if most == 1 or sum(len(block.data) for block in blocks) <= MOST_BYTES:
            return blocks
        most //= 2


def _blocks(run: ReportedRun, most: int) -> Iterator[Block]:
    for method in dict.fromkeys(arm.name for arm in run.arms):
        arms = [arm for arm in run.arms if arm.name == method]
        for stage in arms[0].stages:
            yield from _block(f"{method}, {stage.name}", {arm.seed: arm.folder for arm in arms}, stage.name, most)


def _block(name: str, folders: dict[int, ArmFolder], stage: str, most: int) -> Iterator[Block]:
    rows: list[tuple[int, dict[str, Any]]] = []
    total = 0
    for seed, folder in folders.items():
        file = folder.preferences(stage)
        if file.exists():
            examples = store.iterate_jsonl(file)
            first = [(seed, row) for row in islice(examples, most)]
            rows += first
            total += len(first) + sum(1 for _ in examples)
    if not rows:
        return
    texts = Texts()

    def answer(row: dict[str, Any], side: str) -> list[Any] | None:
        if side not in row:
            return None
        return [row.get(f"{side}_rating"), 0, texts.packed([("text", side.capitalize(), _text(row[side]))])]

    content = {
        "kind": "pairs",
        "title": name,
        "metric": "rating",
        "digits": 2,
        "arms": [[side, seed] for seed in folders for side in SIDES],
        "questions": [[str(row["id"]), "", texts.packed(_question(row))] for _, row in rows],
        "answers": [
            [answer(row, side) if of == seed else None for of, row in rows] for seed in folders for side in SIDES
        ],
    }
    content["texts"] = list(texts)
    yield Block(f"pairs: {name}", pack(content), len(rows), total, f"Training: {name}")


def _question(row: dict[str, Any]) -> list[Part]:
    """The prompt, and as facts what else the method kept of it: principles, features, ratings of all candidates."""
    parts = [("text", str(each["role"]).capitalize(), message_text(each)) for each in row["prompt"]]
    for name, value in row.items():
        if name not in INNER and value is not None:
            parts.append(("fact", name.replace("_", " ").capitalize(), _text(value)))
    return parts


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(each, dict) and "role" in each for each in value):
        return question_text(value)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value, ensure_ascii=False)
