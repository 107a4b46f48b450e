"""MATH (Hendrycks et al. 2021) through lm-eval, answered by our engine: zero-shot chat, answers in \\boxed{}.

Two verdicts for each problem: strict (the last box as a string, after lm-eval's normalization) and math-verify.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from harness.benchmarks import files
from harness.benchmarks.base import Judging, NoOptions, Policy, Score, Settings
from harness.benchmarks.math_answers import Grader
from harness.engines.base import Advance, Sampling
from harness.judges.base import Judge

MAX_NEW_TOKENS = 1024
INSTRUCTION = "\n\nReason step by step, and put your final answer within \\boxed{}."


class Math:
    name = "math"
    title = "MATH"
    needs_judge = False
    needs_pairs = False
    turns = 1
    Options = NoOptions

    def load(self, data_dir: Path, settings: Settings) -> list[dict]:
        file = files.find(data_dir / "math", self.name, "math500.jsonl")
        instruction = files.suite_settings(data_dir).get("math_instruction", INSTRUCTION)
        return [
            {
                "id": row["unique_id"],
                "prompt": row["problem"] + instruction,
                "answer": row["answer"],
                "subject": row["subject"],
                "level": row["level"],
            }
            for row in files.read_rows(file, problem=str, answer=str, unique_id=str, subject=str, level=int)[
                : settings.limit
            ]
        ]

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        from harness.benchmarks.lm_eval_model import evaluate

        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        with Grader() as grader:
            by_id = evaluate(policy.engine, self.name, _task(items, grader), sampling, advance)
        return [
            {
                "id": item["id"],
                "response": by_id[item["id"]]["resps"][0][0],
                "strict": by_id[item["id"]]["strict"],
                "math_verify": by_id[item["id"]]["math_verify"],
                "extracted": by_id[item["id"]]["extracted"],
            }
            for item in items
        ]

    def judge(
        self, items: list[dict], samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        return []

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        values = {sample["id"]: 100 * sample["strict"] for sample in samples}
        groups: dict[str, dict] = {"level": defaultdict(list), "subject": defaultdict(list)}
        for item in items:
            for name, group in groups.items():
                group[item[name]].append(values[item["id"]])
        return Score(
            benchmark=self.name,
            metric="exact match %",
            value=fmean(values.values()),
            values=values,
            questions=len(items),
            unparsed=sum(not sample["extracted"] for sample in samples),
            details={
                "strict": fmean(values.values()),
                "math_verify": 100 * fmean(sample["math_verify"] for sample in samples),
                **{name: {key: fmean(group[key]) for key in sorted(group)} for name, group in groups.items()},
            },
        )


def _task(items: Sequence[dict], grader: Grader):
    """The lm-eval task of these problems; nothing is downloaded."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    def process(doc: dict, responses: list[str]) -> dict[str, float]:
        return grader.grade(responses[0], doc["answer"])

    metrics = ("strict", "math_verify", "extracted")
    return ConfigurableTask(
        config={
            "task": "math",
            "custom_dataset": lambda **_settings: {"test": Dataset.from_list(list(items))},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "process_results": process,
            "generation_kwargs": {"until": []},
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
            "num_fewshot": 0,
            "metadata": {"version": 1},
        }
    )
