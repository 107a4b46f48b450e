"""MATH (Hendrycks et al. 2021) through lm-eval, answered by our engine.

Two protocols: zero-shot chat with answers in \\boxed{}, or Minerva's four examples (Lewkowycz et al. 2022, as in
lm-eval), whose answers end in "Final Answer: The final answer is ...". Each problem gets these verdicts: strict (the
last box as a string, after lm-eval's normalization), math-verify, and with Minerva's examples lm-eval's exact match.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.benchmarks import files, graded_responses
from harness.benchmarks.base import BenchmarkSize, HubTask, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.math_answers import LONGEST, Grader, last_boxed
from harness.benchmarks.rows import Grade, GradedSample, MathItem, TaskSettings
from harness.engines.base import Sampling
from harness.errors import UserError, unknown_name
from harness.files.data_files import DataFile
from harness.judges.shares import noted
from harness.progress import Advance
from harness.thoughts import MARKS, Marks

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

MAX_NEW_TOKENS = 1024
BOXED, MINERVA = "boxed", "minerva"
MATH500, WHOLE = 500, 5000
PROTOCOLS = {BOXED: 0, MINERVA: 4}  # -> number of examples
NO_FINAL_ANSWER = "[invalidanswer]"  # what lm-eval's Minerva task reads if there is no answer
ANSWER_END = " I hope it is correct."
INSTRUCTION = "\n\nReason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class MathOptions:
    """protocol: "boxed" (zero-shot chat) or "minerva" (four examples). problems: 500 (MATH-500), or all 5000."""

    protocol: str = BOXED
    problems: int = MATH500

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.problems not in (MATH500, WHOLE):
            raise UserError(f"problems must be {MATH500} or {WHOLE}, not {self.problems}")


def score_responses(
    path: Path, *, items: bool = False, advance: Advance | None = None, marks: Marks = MARKS
) -> dict[str, Any]:
    """Run `graded_responses.score_responses` for MATH: an answer may also be a whole solution with a box."""
    return graded_responses.score_responses(path, Grader.grade, items, advance, marks=marks)


class Math(BenchmarkDefaults):
    """MATH as a benchmark: the share of answers that are equivalent to the reference."""

    name = "math"
    title = "MATH"
    packages = ("lm-eval", "math-verify")
    data_files = (
        DataFile(
            "math/math500.jsonl",
            "https://raw.githubusercontent.com/ZubinGou/math-evaluation-harness/db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/"
            "data/math_oai/test.jsonl",
            "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
            "MIT",
        ),
        DataFile(
            "math/test.jsonl",
            "https://raw.githubusercontent.com/ZubinGou/math-evaluation-harness/db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/"
            "data/math/test.jsonl",
            "3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4",
            "MIT",
        ),
    )
    size = BenchmarkSize(questions=500, prompt=200, answer=350)
    testbed_size = BenchmarkSize(questions=400, prompt=25, answer=22)
    further = {"strict": "strict %", "math_verify": "math-verify %", "minerva": "Minerva %"}
    parts = {"level": "by level", "subject": "by subject"}
    Options = MathOptions

    def hub_task(self, options: MathOptions) -> HubTask | None:
        return HubTask("HuggingFaceH4/MATH-500", "default") if options.problems == MATH500 else None

    def load(self, data_dir: Path, settings: Settings) -> list[MathItem]:
        options = settings.options or MathOptions()
        instruction = files.suite_settings(data_dir).get("math_instruction", INSTRUCTION)
        read = _math500 if options.problems == MATH500 else _whole_test_set
        return read(data_dir / "math", options.protocol, instruction if options.protocol == BOXED else "")

    def answer(
        self, policy: Policy, items: list[MathItem], settings: Settings, advance: Advance | None
    ) -> list[GradedSample]:
        from harness.benchmarks.lm_eval_model import evaluate, named_settings

        protocol = items[0]["protocol"]
        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        records = evaluate(policy.engine, self.name, _task(items, protocol), sampling, advance)
        responses = [records[item["id"]]["resps"][0][0] for item in items]
        grade = _minerva_grade if protocol == MINERVA else Grader.grade
        grades = graded_responses.grade_all(grade, responses, [item["answer"] for item in items])
        asked: TaskSettings = {"protocol": protocol, **named_settings(self.name, PROTOCOLS[protocol])}
        return [
            {"id": item["id"], "response": response, **graded, "settings": asked}
            for item, response, graded in zip(items, responses, grades, strict=True)
        ]

    def score(self, items: list[MathItem], samples: list[GradedSample], judgments: list[Any]) -> Score:
        asked = samples[0]["settings"]
        by_minerva = asked["protocol"] == MINERVA
        values = {row["id"]: 100 * (row["minerva"] if by_minerva else row["strict"]) for row in samples}
        levels: dict[int, list[float]] = defaultdict(list)
        subjects: dict[str, list[float]] = defaultdict(list)
        for item in items:
            levels[item["level"]].append(values[item["id"]])
            subjects[item["subject"]].append(values[item["id"]])
        return Score(
            benchmark=self.name,
            metric="exact match %",
            value=fmean(values.values()),
            values=values,
            questions=len(items),
            unparsed=sum(sample["extracted"] is None for sample in samples),
            details={
                **graded_responses.percentages(samples),
                **_note(samples),
                **asked,
                "level": {level: fmean(levels[level]) for level in sorted(levels)},
                "subject": {subject: fmean(subjects[subject]) for subject in sorted(subjects)},
            },
        )


def _note(samples: Sequence[GradedSample]) -> dict[str, str]:
    return noted(
        [
            f"{number} answers took too long to compare with the gold answer, and count as wrong"
            for number in graded_responses.given_up(samples).values()
        ]
    )


def _math500(folder: Path, protocol: str, instruction: str) -> list[MathItem]:
    file = files.find(folder, Math.name, "math500.jsonl")
    items: dict[str, MathItem] = {}
    rows = files.read_located_rows(file, problem=str, answer=str, unique_id=str, subject=str, level=int)
    for where, row in rows:
        if row["unique_id"] in items:
            raise UserError(f"{where}: unique_id {row['unique_id']!r:.60} occurs twice")
        items[row["unique_id"]] = {
            "id": row["unique_id"],
            "prompt": row["problem"] + instruction,
            "answer": row["answer"],
            "subject": row["subject"],
            "level": row["level"],
            "protocol": protocol,
        }
    return list(items.values())


def _whole_test_set(folder: Path, protocol: str, instruction: str) -> list[MathItem]:
    """Return all 5,000 problems, whose answers are in the last box of their solutions; the id is the line."""
    file = files.find(folder, Math.name, "test.jsonl")
    items: list[MathItem] = []
    rows = files.read_located_rows(file, problem=str, solution=str, type=str, level=str)
    for number, (where, row) in enumerate(rows, 1):
        answer, level = last_boxed(row["solution"]), row["level"].removeprefix("Level ")
        if answer is None or not level.isdecimal():
            raise UserError(f"{where}: must have a solution with a box and a level such as 'Level 3'")
        items.append(
            {
                "id": f"test/{number}",
                "prompt": row["problem"] + instruction,
                "answer": answer,
                "subject": row["type"],
                "level": int(level),
                "protocol": protocol,
            }
        )
    return items


def _task(items: Sequence[MathItem], protocol: str) -> "ConfigurableTask":
    """Return the lm-eval task of these problems, without its grading."""
    from harness.benchmarks.lm_eval_model import local_task, stock_config

    documents = [{"id": item["id"], "problem": item["prompt"], "solution": item["answer"]} for item in items]
    if protocol == MINERVA:
        from lm_eval.tasks.minerva_math import utils

        config = stock_config("minerva_math", "minerva_math_algebra")
        config |= {"process_docs": None, "training_split": None, "doc_to_text": utils.doc_to_text}
        config |= {"fewshot_config": config["fewshot_config"] | {"samples": utils.list_fewshot_samples}}
    else:
        config = {"test_split": "test", "output_type": "generate_until", "num_fewshot": 0}
        config |= {"doc_to_text": "{{problem}}", "generation_kwargs": {"until": []}}
    ungraded = {"process_results": lambda *_: {}, "metric_list": [], "doc_to_target": "{{solution}}"}
    return local_task({"task": "math"} | config | ungraded, test=documents)


def _up_to_answers(response: str) -> str:
    """Return the lines of a response in which an answer can end, up to its end: lm-eval finds the same in them.

    On other lines, the time of its regular expression grows with the square of their length.
    """
    lines = f"{response}{ANSWER_END.strip()}".split("\n")
    return "\n".join(line[: line.rindex(ANSWER_END) + len(ANSWER_END)] for line in lines if ANSWER_END in line)


def _minerva_grade(grader: Grader, response: str, answer: str) -> Grade:
    """Return the grade of the boxed protocol, with lm-eval's exact match of the answer after "The final answer is"."""
    from lm_eval.tasks.minerva_math.utils import get_unnormalized_answer, normalize_final_answer

    final = get_unnormalized_answer(_up_to_answers(response))
    known = final != NO_FINAL_ANSWER and len(final) <= LONGEST  # on longer ones their expressions take hours
    right = known and grader.same_final_answers(normalize_final_answer(final), normalize_final_answer(answer))
    return {**grader.grade(response, answer), "minerva": float(right), "extracted": final if known else None}
