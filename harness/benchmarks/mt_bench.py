"""MT-Bench (Zheng et al. 2023): two-turn questions, each answer graded by a judge from 1 to 10.

Judge prompts come from the data folder. The score follows FastChat: the mean over all turns with a verdict; turns
without one are counted and reported.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import BenchmarkSize, HubTask, Judging, NoOptions, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.mt_bench_judgments import UNPARSED, summary
from harness.benchmarks.rows import MTBenchItem, MTBenchJudgment, MTBenchSample
from harness.endpoints.base import JudgeRequest
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.files.data_files import DataFile
from harness.judges.base import Judge, complete
from harness.judges.shares import note_of_form, noted
from harness.judges.templates import fill
from harness.judges.verdicts import forged, has_rating, names_of_judges, rating_of
from harness.progress import Advance
from harness.types import Message

TEMPERATURES = {  # FastChat's, by category; 0.7 for others
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7
MAX_NEW_TOKENS = 1024
WITH_REFERENCE = ("math", "reasoning", "coding")  # categories graded against a reference answer
JUDGE_PROMPTS = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
JUDGE_TOKENS = 2048
TURNS = 2


class MTBench(BenchmarkDefaults):
    """MT-Bench as a benchmark: the mean rating of both turns."""

    name = "mt-bench"
    title = "MT-Bench"
    question_fields = ("turns",)
    needs_judge = True
    turns = 2
    data_files = (
        DataFile(
            "mt_bench/question.jsonl",
            "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/"
            "fastchat/llm_judge/data/mt_bench/question.jsonl",
            "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            "Apache-2.0",
        ),
        DataFile(
            "mt_bench/reference_answer_gpt-4.jsonl",
            "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/"
            "fastchat/llm_judge/data/mt_bench/reference_answer/gpt-4.jsonl",
            "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            "Apache-2.0",
        ),
        DataFile(
            "mt_bench/judge_prompts.jsonl",
            "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/"
            "fastchat/llm_judge/data/judge_prompts.jsonl",
            "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            "Apache-2.0",
        ),
    )
    size = BenchmarkSize(questions=80, turns=2, prompt=200, answer=290, judge_prompt=1072, judge_reply=188)
    testbed_size = BenchmarkSize(questions=240, turns=2, prompt=40, answer=17)
    further = {"turn_1": "turn 1", "turn_2": "turn 2"}
    parts = {"categories": "by category"}
    Options = NoOptions

    def hub_task(self, options: NoOptions) -> HubTask:
        return HubTask("HuggingFaceH4/mt_bench_prompts", "default")

    def load(self, data_dir: Path, settings: Settings) -> list[MTBenchItem]:
        folder = data_dir / "mt_bench"
        question_file = files.find(folder, self.name, "question.jsonl")
        questions = files.read_rows(question_file, question_id=int, category=str, turns=list)
        reference_file = files.find(folder, self.name, "reference_answer*.jsonl")
        answers = {
            row["question_id"]: _reference(row)
            for row in files.read_rows(reference_file, question_id=int, choices=list)
        }
        prompt_file = files.find(folder, self.name, "judge_prompts.jsonl")
        prompts = {
            row["name"]: {"system": row["system_prompt"], "template": row["prompt_template"]}
            for row in files.read_rows(prompt_file, name=str, system_prompt=str, prompt_template=str)
        }
        if absent := [name for name in JUDGE_PROMPTS if name not in prompts]:
            raise UserError(f"{prompt_file}: no prompt named {', '.join(absent)}")
        items: list[MTBenchItem] = []
        for question in questions:
            graded_against = answers.get(question["question_id"]) if question["category"] in WITH_REFERENCE else None
            for file, turns in ((question_file, question["turns"]), (reference_file, graded_against)):
                if turns is not None and (len(turns) != TURNS or not all(isinstance(turn, str) for turn in turns)):
                    raise UserError(f"{file}: question {question['question_id']} must have two turns, both texts")
            kind = "single-math-v1" if graded_against else "single-v1"
            items.append(
                {
                    "id": str(question["question_id"]),
                    "category": question["category"],
                    "turns": question["turns"],
                    "reference": graded_against,
                    "reference_file": reference_file.name,
                    "judge_prompts": [
                        {"name": name, "system": prompts[name]["system"], "template": prompts[name]["template"]}
                        for name in (kind, f"{kind}-multi-turn")
                    ],
                }
            )
        return items

    def answer(
        self, policy: Policy, items: list[MTBenchItem], settings: Settings, advance: Advance | None
    ) -> list[MTBenchSample]:
        chats: dict[str, list[Message]] = {item["id"]: [] for item in items}
        samples: dict[str, MTBenchSample] = {
            item["id"]: {"id": item["id"], "turns": [], "finished": [], "tokens": []} for item in items
        }
        for turn in range(TURNS):
            for item in items:
                chats[item["id"]].append({"role": "user", "content": item["turns"][turn]})
            for temperature, group in _by_temperature(items, settings).items():
                completions = policy.engine.generate(
                    [policy.engine.encode_chat(chats[item["id"]]) for item in group],
                    [f"{self.name}/{item['id']}/turn-{turn + 1}" for item in group],
                    Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, temperature, seed=settings.seed),
                    advance,
                )
                for item, completion in zip(group, completions, strict=True):
                    chats[item["id"]].append({"role": "assistant", "content": completion.text})
                    sample = samples[item["id"]]
                    sample["turns"].append(completion.text)
                    sample["finished"].append(completion.finished)
                    sample["tokens"].append(len(completion.token_ids))
        return list(samples.values())

    def judge(
        self,
        items: list[MTBenchItem],
        samples: list[MTBenchSample],
        judge: Judge,
        judging: Judging,
        advance: Advance | None,
    ) -> list[MTBenchJudgment]:
        answers = {sample["id"]: sample["turns"] for sample in samples}
        asked = [(item, turn, *_ask(item, answers[item["id"]], turn)) for item in items for turn in (1, 2)]
        requests = [
            JudgeRequest(f"{item['id']}/{turn}", messages, max_tokens=JUDGE_TOKENS) for item, turn, _, messages in asked
        ]
        rows: list[MTBenchJudgment] = []
        replies = complete(judge, requests, has_rating, judging.rejudge, advance)
        for (item, turn, prompt, messages), reply in zip(asked, replies, strict=True):
            rating = rating_of(reply)
            rows.append(
                {
                    "question_id": int(item["id"]),
                    "turn": turn,
                    "judge": [reply.model or judge.name, prompt],
                    "user_prompt": messages[-1]["content"],
                    "judgment": reply.text,
                    "score": UNPARSED if rating is None else rating,
                    "error": reply.error,
                    "finish_reason": reply.finish_reason,
                    "form": list(reply.form),
                    "fingerprint": reply.fingerprint,
                    "date": reply.date,
                }
            )
        return rows

    def verdicts(self, judgment: MTBenchJudgment) -> list[tuple[str, str]]:
        verdict = "no verdict" if self.is_open(judgment) else f"rating {judgment['score']:g}"
        return [(verdict, judgment["judgment"] or "")]

    def is_open(self, judgment: MTBenchJudgment) -> bool:
        return judgment["score"] == UNPARSED

    def score(self, items: list[MTBenchItem], samples: list[MTBenchSample], judgments: list[MTBenchJudgment]) -> Score:
        by_question = defaultdict(list)
        for row in judgments:
            if row["score"] != UNPARSED:
                by_question[str(row["question_id"])].append(row["score"])
        details = summary(judgments, {int(item["id"]): item["category"] for item in items})
        value, unparsed = details.pop("score"), details.pop("unparsed")
        details["reference_file"] = items[0]["reference_file"]
        details |= forged(text for sample in samples for text in sample["turns"])
        details |= noted(note_of_form(judgments))
        replied = [row for row in judgments if not row.get("error")]  # FastChat's own rows have no such field
        failed = len(judgments) - len(replied)
        absent = TURNS * len(items) - (len(judgments) - details["duplicates"])
        return Score(
            benchmark=self.name,
            metric="score (1-10)",
            value=float("nan") if value is None else value,
            values={question: fmean(scores) for question, scores in by_question.items()},
            weights={question: float(len(scores)) for question, scores in by_question.items()},
            questions=len(items),
            missing=failed + absent,
            unparsed=unparsed - failed,
            judge=names_of_judges(row["judge"][0] for row in replied or judgments),
            details=details,
        )


def _reference(row: dict[str, Any]) -> list[Any]:
    """Return both turns of a reference answer, or [] if the row has none."""
    match row["choices"]:
        case [{"turns": [*turns]}, *_]:
            return turns
    return []


def _by_temperature(items: Sequence[MTBenchItem], settings: Settings) -> dict[float, list[MTBenchItem]]:
    groups = defaultdict(list)
    for item in items:
        usual = TEMPERATURES.get(item["category"], OTHER_TEMPERATURE)
        groups[usual if settings.temperature is None else settings.temperature].append(item)
    return groups


def _ask(item: MTBenchItem, answers: Sequence[str], turn: int) -> tuple[str, tuple[Message, ...]]:
    """Return the name of the judge prompt and the messages for one turn."""
    prompt = item["judge_prompts"][turn - 1]
    values = {"question": item["turns"][0], "answer": answers[0]}
    values |= {f"question_{number}": text for number, text in enumerate(item["turns"], 1)}
    values |= {f"answer_{number}": text for number, text in enumerate(answers, 1)}
    values |= {f"ref_answer_{number}": text for number, text in enumerate(item["reference"] or (), 1)}
    messages: tuple[Message, ...] = (
        {"role": "system", "content": prompt["system"]},
        {"role": "user", "content": fill(prompt["template"], values)},
    )
    return prompt["name"], messages
