"""GSM8K (Cobbe et al. 2021) as lm-eval's task, answered by our engine: few-shot chat, graded as numbers."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files, graded_responses
from harness.benchmarks.base import BenchmarkSize, HubTask, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.gsm8k_answers import final_number, gold_number, shown, up_to_next_question
from harness.benchmarks.math_answers import Grader
from harness.benchmarks.rows import Grade, GradedSample, GSM8KExample, GSM8KItem
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.files.data_files import DataFile
from harness.progress import Advance
from harness.thoughts import MARKS, Marks

MAX_NEW_TOKENS = 512
FEWSHOT = 5  # as in lm-eval's task


@dataclass(frozen=True)
class GSM8KOptions:
    """num_fewshot: how many examples from the training set are turns of the conversation."""

    num_fewshot: int = FEWSHOT

    def __post_init__(self) -> None:
        if self.num_fewshot < 0:
            raise UserError(f"num_fewshot must be at least 0, not {self.num_fewshot}")


def grade(grader: Grader, response: str, answer: str) -> Grade:
    """Grade a response; text after an invented next question is ignored.

    Returns:
        strict: whether `final_number` is the gold number. math_verify: its verdict on the text. strict_match and
        flexible_extract: lm-eval's exact match after its filters of these names. extracted: the number read.

    Raises:
        ValueError: when the gold answer has no number; files are checked for that.
    """
    response = up_to_next_question(response)
    gold, number = gold_number(answer), final_number(response)
    if gold is None:
        raise ValueError(f"no gold number in {answer!r:.60}")
    matches = _official_matches(response, gold)
    return {
        "strict": float(number is not None and number == gold),
        "math_verify": float(grader.verify(response, shown(gold))),
        "strict_match": matches["strict-match"],
        "flexible_extract": matches["flexible-extract"],
        "extracted": None if number is None else shown(number),
    }


def _official_matches(response: str, gold: Fraction) -> dict[str, float]:
    """Return lm-eval's exact match by the name of its filter."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    config = _official_config()
    (metric,) = config["metric_list"]
    ignored = {name: metric[name] for name in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    matches = {}
    for entry in config["filter_list"]:
        pattern = {name: value for name, value in entry["filter"][0].items() if name != "function"}
        extracted = RegexFilter(**pattern).apply([[response]], [{}])[0][0]
        matched = exact_match_hf_evaluate([extracted], [shown(gold)], **ignored)["exact_match"]
        matches[entry["name"]] = float(matched)
    return matches


def _official_config() -> dict[str, Any]:
    from harness.benchmarks.lm_eval_model import stock_config

    return stock_config("gsm8k", "gsm8k")


def score_responses(
    path: Path, *, items: bool = False, advance: Advance | None = None, marks: Marks = MARKS
) -> dict[str, Any]:
    """Run `graded_responses.score_responses` for GSM8K: an answer is a number or a solution that ends in "#### n"."""
    return graded_responses.score_responses(
        path, grade, items, advance, lambda answer: gold_number(answer) is not None, marks
    )


class GSM8K(BenchmarkDefaults):
    """GSM8K as a benchmark: the share of exact final numbers."""

    name = "gsm8k"
    title = "GSM8K"
    packages = ("lm-eval", "math-verify")
    data_files = (
        DataFile(
            "gsm8k/test.jsonl",
            "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/"
            "grade_school_math/data/test.jsonl",
            "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            "MIT",
        ),
        DataFile(
            "gsm8k/train.jsonl",
            "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/"
            "grade_school_math/data/train.jsonl",
            "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
            "MIT",
        ),
    )
    size = BenchmarkSize(questions=1319, prompt=850, answer=150, shared=760)
    further = {"strict": "strict %", "math_verify": "math-verify %"}
    question_fields = ("question",)
    Options = GSM8KOptions

    def hub_task(self, options: GSM8KOptions) -> HubTask:
        return HubTask("openai/gsm8k", "main")

    def load(self, data_dir: Path, settings: Settings) -> list[GSM8KItem]:
        options = settings.options or GSM8KOptions()
        folder = data_dir / "gsm8k"
        file = files.find(folder, self.name, "test.jsonl")
        rows = files.read_located_rows(file, question=str, answer=str)
        for where, row in rows:
            if gold_number(row["answer"]) is None:
                raise UserError(f'{where}: the answer must be a number, or end in "#### n"')
        shots: list[dict[str, Any]] = []
        if options.num_fewshot:
            shots = files.read_rows(files.find(folder, self.name, "train.jsonl"), question=str, answer=str)
        examples: list[GSM8KExample] = [
            {"question": row["question"], "answer": row["answer"]} for row in shots[: options.num_fewshot]
        ]
        return [
            {"id": str(number), "question": row["question"], "answer": row["answer"], "examples": examples}
            for number, (_, row) in enumerate(rows)
        ]

    def answer(
        self, policy: Policy, items: list[GSM8KItem], settings: Settings, advance: Advance | None
    ) -> list[GradedSample]:
        from harness.benchmarks.lm_eval_model import evaluate, local_task, named_settings

        examples = items[0]["examples"]
        changes = {
            "num_fewshot": len(examples),
            "fewshot_config": {"sampler": "first_n"},
            "generation_kwargs": {"until": []},  # grading cuts: a stop would end answers that restate the question
        }
        task = local_task(
            _official_config() | changes,
            test=[{"id": item["id"], "question": item["question"], "answer": item["answer"]} for item in items],
            train=[{"id": "", **example} for example in examples] or [{"id": "", "question": "", "answer": ""}],
        )
        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        records = evaluate(policy.engine, self.name, task, sampling, advance)
        responses = [records[item["id"]]["resps"][0][0] for item in items]
        grades = graded_responses.grade_all(grade, responses, [item["answer"] for item in items])
        asked = named_settings(self.name, len(examples))
        return [
            {"id": item["id"], "response": response, **graded, "settings": asked}
            for item, response, graded in zip(items, responses, grades, strict=True)
        ]

    def score(self, items: list[GSM8KItem], samples: list[GradedSample], judgments: list[Any]) -> Score:
        values = {sample["id"]: 100 * sample["strict"] for sample in samples}
        return Score(
            benchmark=self.name,
            metric="exact match %",
            value=fmean(values.values()),
            values=values,
            questions=len(items),
            unparsed=sum(sample["extracted"] is None for sample in samples),
            details={**graded_responses.percentages(samples), **samples[0]["settings"]},
        )
