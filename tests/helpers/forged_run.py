"""Writes the folder of a finished run without a model: its numbers and texts are those that a test wants."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import yaml

from harness.benchmarks.base import Score
from harness.budget import Ledger
from harness.experiment.options import Experiment
from harness.results.folder import FORMAT

Values = dict[str, dict[str, list[list[float | None]]]]  # benchmark -> method -> seed -> question, None: no verdict
METRICS = {
    "mt-bench": "score (1-10)",
    "alpaca-eval": "win rate %",
    "reward-bench": "accuracy %",
    "math": "exact match %",
}
PROMPTS = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
PARAMETERS = 1_000_000
CAP = 1e12
UPDATES = 12


def plain(where: str) -> str:
    return where


def forge(path: Path, values: Values, text: Callable[[str], str] = plain, trained_tokens: int = 161_700) -> Path:
    """The folder of a run of these methods (ARM=METHOD is a variant), trained for 97 % of the cap.

    Args:
        text: what stands at a place, such as "math response"; every text of models, judges and files is made by it.
    """
    methods = list(dict.fromkeys(name for by_method in values.values() for name in by_method))
    seeds = max(len(by_seed) for by_method in values.values() for by_seed in by_method.values())
    experiment = Experiment(
        name=path.name, methods=tuple(methods), benchmarks=tuple(values), seeds=seeds, budget=f"{CAP:g}"
    )
    write(path / "experiment.yaml", yaml.safe_dump(experiment.as_dict()))
    write(path / "versions.json", {"format": FORMAT, "harness": "0.1.0", "machine": "x86_64", "system": "Linux"})
    for benchmark, by_method in values.items():
        questions = max(len(own) for by_seed in by_method.values() for own in by_seed)
        SUITES[benchmark](path / "data", questions, text)
        for method, by_seed in by_method.items():
            for seed, own in enumerate(by_seed):
                _score(path / "arms" / f"{method.partition('=')[0]}-seed{seed}", benchmark, own, text)
    for method in methods:
        for seed in range(seeds):
            arm = path / "arms" / f"{method.partition('=')[0]}-seed{seed}"
            _training(arm, experiment, method.partition("=")[0], text, trained_tokens)
    return path


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(f"{json.dumps(row)}\n" for row in content)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def _training(arm: Path, experiment: Experiment, name: str, text: Callable[[str], str], tokens: int) -> None:
    stages = experiment.method(name).stages(experiment.method_options(name))
    ledger = Ledger(CAP)
    if stages:
        ledger.charge("train", 6 * PARAMETERS * tokens, trained_tokens=tokens, updates=UPDATES)
    write(arm / "ledger.json", ledger.as_dict())
    write(arm / "seconds.json", {"training": 90.0, "scoring": 5.0})
    for stage in stages:
        rows = [
            {"step": step, "loss": 1 / step, "accuracy": step / UPDATES, "chosen_logp": -0.4, "rejected_logp": -0.6}
            | {"chosen_logratio": 0.01 * step}
            for step in range(1, UPDATES + 1)
        ]
        write(arm / "training" / f"{stage.name}.jsonl", rows)
        health = {"examples": 100, "discarded": {text("reason"): 3}, "events": {}, "finished": 1.0}
        health |= {"completion_tokens": 19.5, "pair_accuracy": 0.75, "chosen_probability": 0.8}
        health |= {"rejected_probability": 0.6, "warnings": [text("warning")]}
        write(arm / "health" / f"{stage.name}.json", health)


def _score(arm: Path, benchmark: str, values: list[float | None], text: Callable[[str], str]) -> None:
    names = [NAMES[benchmark](number) for number in range(len(values))]
    known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    mean = fmean(known.values())
    parts = {text("part"): mean, "other": mean}
    details = {
        "mt-bench": {"categories": parts, "turn_1": mean, "turn_2": mean},
        "alpaca-eval": {"average_length": 50.0, "length_controlled_win_rate": None},
        "reward-bench": {"sections": parts, "note": text("note")},
        "math": {"level": {"1": mean, "2": mean / 2}, "subject": parts, "strict": mean},
    }[benchmark]
    judge = text("judge") if benchmark in ("mt-bench", "alpaca-eval") else None
    unparsed = len(values) - len(known)
    score = Score(benchmark, METRICS[benchmark], mean, known, {}, len(values), 0, unparsed, judge, details)
    write(arm / "scores" / f"{benchmark}.json", asdict(score))
    mark = {"key": "", "depends_on": {}, "files": {f"scores/{benchmark}.json": ""}, "facts": {}}
    write(arm / "steps" / f"score-{benchmark}.json", mark)
    samples, judgments = zip(*map(ROWS[benchmark], names, values, [text] * len(values)), strict=True)
    write(arm / "samples" / f"{benchmark}.jsonl", list(samples))
    if judge:
        write(arm / "judgments" / f"{benchmark}.jsonl", [row for rows in judgments for row in rows])


def _mt_bench(name: str, value: float | None, text: Callable[[str], str]) -> tuple[dict, list[dict]]:
    said = [text(f"answer {turn}") for turn in (1, 2)]
    rows = [
        {"question_id": int(name), "turn": turn, "judge": [text("judge"), "single-v1"], "error": None}
        | {"judgment": text(f"judgment {turn}"), "score": -1 if value is None else value}
        for turn in (1, 2)
    ]
    return {"id": name, "turns": said, "finished": [True, True], "tokens": [3, 4]}, rows


def _alpaca_eval(name: str, value: float | None, text: Callable[[str], str]) -> tuple[dict, list[dict]]:
    preference = None if value is None else 1 + value / 100
    asking = {"preference": preference, "policy_first": True, "text": text("letter"), "first_token": {}}
    row = {"id": name, "preference": preference, "judge": text("judge"), "error": None, "askings": [asking]}
    return {"id": name, "output": text("output"), "finished": True, "tokens": 5}, [row]


def _reward_bench(name: str, value: float | None, text: Callable[[str], str]) -> tuple[dict, list[dict]]:
    return {"id": name, "mode": "implicit", "chosen_logprob": -1.0, "rejected_logprob": -2.0}, []


def _math(name: str, value: float | None, text: Callable[[str], str]) -> tuple[dict, list[dict]]:
    return {"id": name, "response": text("response"), "strict": value, "extracted": text("extracted")}, []


def _mt_bench_suite(data: Path, questions: int, text: Callable[[str], str]) -> None:
    turns = [text("question 1"), text("question 2")]
    rows = [
        {"question_id": int(NAMES["mt-bench"](i)), "category": text("part"), "turns": turns} for i in range(questions)
    ]
    write(data / "mt_bench" / "question.jsonl", rows)
    answer = {"question_id": 1, "choices": [{"turns": turns}]}
    write(data / "mt_bench" / "reference_answer.jsonl", [answer])
    prompts = [{"name": name, "system_prompt": "s", "prompt_template": "t"} for name in PROMPTS]
    write(data / "mt_bench" / "judge_prompts.jsonl", prompts)


def _alpaca_eval_suite(data: Path, questions: int, text: Callable[[str], str]) -> None:
    row = {"instruction": text("instruction"), "output": text("reference"), "generator": text("generator")}
    write(data / "alpaca_eval" / "reference.json", json.dumps([row] * questions))


def _reward_bench_suite(data: Path, questions: int, text: Callable[[str], str]) -> None:
    row = {"prompt": text("prompt"), "chosen": text("chosen"), "rejected": text("rejected"), "subset": text("subset")}
    write(data / "rewardbench" / "rewardbench.jsonl", [row] * questions)
    facts = {"EXAMPLE_COUNTS": {text("subset"): 1}, "SUBSET_MAPPING": {text("part"): [text("subset")]}}
    write(data / "rewardbench" / "facts.json", facts)


def _math_suite(data: Path, questions: int, text: Callable[[str], str]) -> None:
    row = {"problem": text("problem"), "answer": "4", "subject": text("part"), "level": 1}
    rows = [{**row, "unique_id": NAMES["math"](number)} for number in range(questions)]
    write(data / "math" / "math500.jsonl", rows)


NAMES = {
    "mt-bench": lambda number: str(number + 1),
    "alpaca-eval": str,
    "reward-bench": str,
    "math": lambda number: f"test/{number}",
}
ROWS = {"mt-bench": _mt_bench, "alpaca-eval": _alpaca_eval, "reward-bench": _reward_bench, "math": _math}
SUITES = {
    "mt-bench": _mt_bench_suite,
    "alpaca-eval": _alpaca_eval_suite,
    "reward-bench": _reward_bench_suite,
    "math": _math_suite,
}
