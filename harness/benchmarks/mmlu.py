"""MMLU (Hendrycks et al. 2021) as lm-eval's tasks, answered by our engine: the likeliest of four letters."""

import csv
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import BenchmarkSize, HubTask, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.rows import MMLUItem, MMLUQuestion, MMLUSample
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.files.data_files import DataFile
from harness.progress import Advance

FEWSHOT = 5
LETTERS = ("A", "B", "C", "D")
FIELDS = 6  # per row: question, four choices, letter


@dataclass(frozen=True)
class MMLUOptions:
    """num_fewshot: examples of the same subject (from the split dev, which has five), as turns of the conversation."""

    num_fewshot: int = FEWSHOT

    def __post_init__(self) -> None:
        if not 0 <= self.num_fewshot <= FEWSHOT:
            raise UserError(f"num_fewshot must be from 0 to {FEWSHOT}, not {self.num_fewshot}")


class MMLU(BenchmarkDefaults):
    """MMLU as a benchmark: the share of questions whose most likely letter is right."""

    name = "mmlu"
    title = "MMLU"
    question_fields = ("question",)
    needs_logprobs = True
    turns = len(LETTERS)
    sections = "subject"
    packages = ("lm-eval",)
    data_files = (
        DataFile(
            "mmlu/mmlu.zip",
            "https://raw.githubusercontent.com/icip-cas/SSO/1c234bf88e80bdf0aa91b7d5dffc2074361f54a2/"
            "myllamafactory/evaluation/mmlu/mmlu.zip",
            "9e2b2d78bf59d80baf271a13005568ef0aca17bd663f2e5ebfecdc07a68f0edc",
            "MIT",
        ),
    )
    size = BenchmarkSize(questions=14042, prompt=700, reads=1)
    further = {"macro": "mean over subjects %"}
    parts = {"categories": "by category"}
    Options = MMLUOptions

    def hub_task(self, options: MMLUOptions) -> HubTask:
        return HubTask("cais/mmlu", "all")

    def load(self, data_dir: Path, settings: Settings) -> list[MMLUItem]:
        options = settings.options or MMLUOptions()
        path = files.find(data_dir / "mmlu", self.name, "mmlu.zip")
        items: list[MMLUItem] = []
        for subject, splits in sorted(read_archive(path).items()):
            examples = splits.get("dev", [])[: options.num_fewshot]
            if len(examples) < options.num_fewshot:
                raise UserError(f"{path}: subject {subject} has fewer than {options.num_fewshot} examples in split dev")
            items += [
                {"id": f"{subject}/{number}", "subject": subject, **row, "examples": examples}
                for number, row in enumerate(splits.get("test", []))
            ]
        return items

    def answer(
        self, policy: Policy, items: list[MMLUItem], settings: Settings, advance: Advance | None
    ) -> list[MMLUSample]:
        from harness.benchmarks.lm_eval_model import evaluate_all, local_task, named_settings, stock_config

        asked_by_subject = defaultdict(list)
        for item in items:
            asked_by_subject[item["subject"]].append(item)
        tasks, category = {}, {}
        for subject, asked in asked_by_subject.items():
            examples = asked[0]["examples"]
            config = stock_config("mmlu/default", f"mmlu_{subject}")
            category[subject] = config["tag"].removeprefix("mmlu_").removesuffix("_tasks")
            tasks[config["task"]] = local_task(
                config | {"num_fewshot": len(examples)},
                test=[_document(item["id"], item) for item in asked],
                dev=[_document("", example) for example in examples] or [_document(asked[0]["id"], asked[0])],
            )
        records = evaluate_all(policy.engine, self.name, tasks, Sampling(1), advance)
        used = named_settings(self.name, len(items[0]["examples"]))
        rows: list[MMLUSample] = []
        for item in items:
            logprobs = [response[0][0] for response in records[item["id"]]["resps"]]
            best = max(range(len(LETTERS)), key=logprobs.__getitem__)
            rows.append(
                {
                    "id": item["id"],
                    "choice": LETTERS[best],
                    "logprobs": logprobs,
                    "category": category[item["subject"]],
                    "settings": used,
                }
            )
        return rows

    def clusters(self, items: Iterable[MMLUItem]) -> dict[str, str]:
        """Cluster by subject: a model that knows a subject knows many of its answers."""
        return {item["id"]: item["subject"] for item in items}

    def score(self, items: list[MMLUItem], samples: list[MMLUSample], judgments: list[Any]) -> Score:
        right = {item["id"]: LETTERS[item["answer"]] for item in items}
        values = {sample["id"]: 100.0 * (sample["choice"] == right[sample["id"]]) for sample in samples}
        categories = means(values, {sample["id"]: sample["category"] for sample in samples})
        return Score(
            benchmark=self.name,
            metric="accuracy %",
            value=fmean(values.values()),
            values=values,
            questions=len(items),
            details={
                **by_subject(values, {item["id"]: item["subject"] for item in items}),
                "categories": categories,
                **samples[0]["settings"],
            },
        )


def _document(identifier: str, question: MMLUQuestion) -> dict[str, Any]:
    """Return a document of lm-eval's task."""
    return {
        "id": identifier,
        "question": question["question"],
        "choices": question["choices"],
        "answer": question["answer"],
    }


def by_subject(values: Mapping[str, float], subject_of: Mapping[str, str]) -> dict[str, Any]:
    """Return the micro (over questions) and macro (over subjects) means, and the mean of each subject."""
    subjects = means(values, subject_of)
    return {"micro": fmean(values.values()), "macro": fmean(subjects.values()), "subjects": subjects}


def means(values: Mapping[str, float], group_of: Mapping[str, str]) -> dict[str, float]:
    """Return the mean over the questions of each group, as in lm-eval's groups."""
    grouped = defaultdict(list)
    for identifier, value in values.items():
        grouped[group_of[identifier]].append(value)
    return {name: fmean(members) for name, members in sorted(grouped.items())}


def read_archive(path: Path) -> dict[str, dict[str, list[MMLUQuestion]]]:
    """Read the published archive, whose members are .../SPLIT/SUBJECT_SPLIT.csv without a header.

    Returns:
        subject -> split -> questions.

    Raises:
        UserError: when it is not such an archive; a malformed row is named by member and row.
    """
    subjects: dict[str, dict[str, list[MMLUQuestion]]] = defaultdict(dict)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                folder, _, name = member.rpartition("/")
                split = folder.rpartition("/")[2]
                if split in ("dev", "test") and name.endswith(f"_{split}.csv"):
                    text = archive.read(member).decode("utf-8")
                    subject = name.removesuffix(f"_{split}.csv")
                    subjects[subject][split] = _questions(f"{path}:{member}", csv.reader(io.StringIO(text, newline="")))
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from None
    if not any("test" in splits for splits in subjects.values()):
        raise UserError(f"{path}: holds no test/SUBJECT_test.csv")
    return dict(subjects)


def _questions(where: str, rows: Iterable[Sequence[str]]) -> list[MMLUQuestion]:
    questions: list[MMLUQuestion] = []
    for number, row in enumerate(rows, 1):
        if len(row) != FIELDS or row[-1] not in LETTERS:
            raise UserError(f"{where}: row {number} must be a question, four choices and a letter from A to D")
        questions.append({"question": row[0], "choices": list(row[1:5]), "answer": LETTERS.index(row[5])})
    return questions
