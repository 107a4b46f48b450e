"""Questions, answers and judgments for the sample browser of the page, compact and within a limit.

Each benchmark is one block of JSON with each text stored once, as gzip in base64: nothing in it can end the element of
the page that holds it, and the browser unpacks it when it is opened.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness.benchmarks.loading import CompleteBenchmark, benchmarks_of
from harness.files import store
from harness.report.run import ReportedRun
from harness.runs.arm import Arm
from harness.runs.questions import read_questions
from harness.tables.layout import digits_of
from harness.tables.schema import Column

MOST_BYTES = 3_500_000  # of all blocks of a page, compressed
LONG = 60  # characters; longer values are shown as texts, not as facts
TURNS = "turns"
TEXTS = ("output", "response", "instruction", "prompt", "question", "reference", "chosen", "rejected", "text")
ANSWERS = ("output", "response")
UNSHOWN = {  # fields that are shown elsewhere, are the same in all rows, or are internal
    *("id", "question_id", "settings", "training", "finished", "judge", "user_prompt", "fingerprint", "date", "turn"),
    *("judge_prompts", "reference_file", "examples", "official_index", "df_gamed", "protocol", "count", "sections"),
}
GROUPS = ("category", "subset", "subject")  # fields that name the group of a question; the first present counts
Row = dict[str, Any]
Part = tuple[str, str, str]  # ("text", "judgment" or "fact"; label; text)


@dataclass(frozen=True)
class Block:
    """The samples of a benchmark as the page has them.

    questions: how many are in the block. of: how many the benchmark has. title: as the page names it.
    """

    benchmark: str
    data: str
    questions: int
    of: int
    title: str


def blocks(run: ReportedRun, most_bytes: int = MOST_BYTES) -> list[Block]:
    """The samples of all benchmarks. If they exceed `most_bytes`, each benchmark keeps the same share of its questions:
    those that lack a verdict, then those on which methods differ most."""
    found = {column.name: _Samples(run, column) for column in run.table.benchmarks}
    share = 1.0
    while True:
        packed = [samples.block(share) for samples in found.values()]
        size = sum(len(block.data) for block in packed)
        if size <= most_bytes:
            return packed
        share *= 0.95 * most_bytes / size


class Texts(dict[str, int]):
    """The texts of a block, each once, with its place."""

    def place(self, text: str) -> int:
        return self.setdefault(text, len(self))

    def packed(self, parts: Iterable[Part]) -> list[list[str | int]]:
        """Parts as a block has them: the first letter of the kind, and the places of label and text."""
        return [[kind[0], self.place(label), self.place(text)] for kind, label, text in parts]


def pack(content: dict[str, Any]) -> str:
    """A block's content as the page holds it: JSON, compressed, in base64."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


class _Samples:
    """All samples of a benchmark, and which questions matter most."""

    def __init__(self, run: ReportedRun, column: Column):
        self.run, self.column = run, column
        self.arms = [arm for arm in run.arms if arm.folder.samples(column.name).exists()]
        self.items = read_questions(run.experiment, run.path, column.name)
        self.cells: list[dict[str, dict[str, Any]]] = [_cells(run, arm, column.name) for arm in self.arms]
        known = dict.fromkeys(question for cells in self.cells for question in cells)
        self.questions = [question for question in self.items if question in known]
        self.questions += [question for question in known if question not in self.items]

    def block(self, share: float) -> Block:
        kept = self._kept(share)
        texts = Texts()
        content = {
            "title": self.column.title,
            "metric": self.column.metric,
            "digits": digits_of(self.column.metric),
            "arms": [[arm.name, arm.seed] for arm in self.arms],
            "questions": [
                [
                    question,
                    _group(self.items.get(question, {})),
                    texts.packed(_parts(self.items.get(question, {}), "Question")),
                ]
                for question in kept
            ],
            "answers": [
                [
                    [cell["value"], int(cell["open"]), texts.packed(cell["parts"])]
                    if (cell := cells.get(question))
                    else None
                    for question in kept
                ]
                for cells in self.cells
            ],
        }
        content["texts"] = list(texts)
        return Block(self.column.name, pack(content), len(kept), len(self.questions), self.column.title)

    def _kept(self, share: float) -> list[str]:
        """The questions that matter most, in their original order."""
        number = int(share * len(self.questions))
        if number == len(self.questions):
            return self.questions
        by_spread = sorted(self.questions, key=self._spread, reverse=True)
        chosen = set(by_spread[:number])
        return [question for question in self.questions if question in chosen]

    def _spread(self, question: str) -> tuple[bool, float]:
        """Whether a verdict is missing, and by how much the means of methods differ."""
        by_method: dict[str, list[float]] = {}
        is_open = False
        for arm, cells in zip(self.arms, self.cells, strict=True):
            cell = cells.get(question)
            is_open |= cell is None or cell["open"]
            if cell and cell["value"] is not None:
                by_method.setdefault(arm.name, []).append(cell["value"])
        means = [fmean(scores) for scores in by_method.values()] or [0.0]
        return is_open, max(means) - min(means)


def _cells(run: ReportedRun, arm: Arm, benchmark: str) -> dict[str, dict[str, Any]]:
    """Question -> {"value" (None without a verdict), "open" (whether a verdict is missing), "parts"} for an arm."""
    values = run.scores[benchmark][arm.name][arm.seed].values
    judgments: dict[str, list[Row]] = {}
    file = arm.folder.judgments(benchmark)
    for row in store.iterate_jsonl(file) if file.exists() else ():
        judgments.setdefault(str(row.get("id", row.get("question_id"))), []).append(row)
    kind = benchmarks_of(run.experiment)[benchmark]
    cells = {}
    for sample in store.iterate_jsonl(arm.folder.samples(benchmark)):
        question = str(sample["id"])
        rows = judgments.get(question, [])
        value = values.get(question)
        cells[question] = {
            "value": None if value is None else round(value, 4),
            "open": value is None
            or ("extracted" in sample and sample["extracted"] is None)
            or any(row.get("error") or kind.is_open(row) for row in rows),
            "parts": _with_judgments(list(_parts(sample, "Answer")), rows, kind),
        }
    return cells


def _with_judgments(parts: list[Part], judgments: list[Row], benchmark: CompleteBenchmark) -> list[Part]:
    """Insert the judgment of a turn after the answer of that turn, others at the end."""
    texts = [place for place, (kind, *_) in enumerate(parts) if kind == "text"]
    for row in reversed(judgments):
        turn = row.get("turn")
        place = texts[turn - 1] + 1 if isinstance(turn, int) and 0 < turn <= len(texts) else len(parts)
        parts[place:place] = _judgment(row, benchmark)
    return parts


def _group(item: Row) -> str:
    found = next((str(item[name]) for name in GROUPS if name in item), "")
    return f"{found}, level {item['level']}" if "level" in item else found


def _judgment(row: Row, benchmark: CompleteBenchmark) -> Iterator[Part]:
    turn = f", turn {row['turn']}" if "turn" in row else ""
    if row.get("error"):
        yield "judgment", f"Judge{turn}: failed", str(row["error"])
    elif (verdicts := benchmark.verdicts(row)) is None:
        yield from _parts(row, "Judge")
    else:
        yield from (("judgment", f"Judge{turn}: {verdict}", text) for verdict, text in verdicts)


def _parts(row: Row, what: str) -> Iterator[Part]:
    """The texts and facts of a row of any benchmark that people want to see.

    Args:
        what: "Question", "Answer" or "Judge".
    """
    for name, value in row.items():
        if name in UNSHOWN or value is None:
            continue
        label = what if name in ANSWERS else name.replace("_", " ").capitalize()
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            for number, text in enumerate(value, 1):
                yield "text", f"{what}, turn {number}" if name == TURNS else f"{label} {number}", text
        elif isinstance(value, str) and (name in TEXTS or len(value) > LONG or "\n" in value):
            yield "text", label, value
        else:
            yield "fact", label, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
