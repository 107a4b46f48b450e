"""RewardBench (Lambert et al. 2024): does a model prefer the chosen response to the rejected one?

Three modes: the implicit reward of a policy, beta * (log pi - log pi_ref), or without a reference the mean
log-probability per token, as in the official code; a sequence classifier; the model as a judge of pairs.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import BenchmarkSize, HubTask, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.reward_bench_modes import (
    CLASSIFIER,
    GENERATIVE,
    IMPLICIT,
    SIDES,
    chosen_first,
    classifier_rows,
    generative_rows,
    implicit_rows,
    outcome,
)
from harness.benchmarks.reward_bench_scores import SECTIONS, section_scores
from harness.benchmarks.rows import JudgePrompt, PairSample, RewardBenchItem
from harness.engines.base import RewardEngine
from harness.errors import UserError, unknown_name
from harness.files.data_files import HubRows
from harness.files.rows import read_json
from harness.progress import Advance

ROWS = ("rewardbench.jsonl", "rewardbench_*.jsonl")
PROMPT = "pair-v2"  # FastChat's prompt for two answers
CODE = "hep-"  # subsets with HumanEvalPack's problems, each in its language
FUNCTION = re.compile(r"`[^`]*?(\w+)\s*(?:<[^`(]*>)?\(")  # `bool has_close_elements(...)`
AUTO = "auto"
MODES = (AUTO, IMPLICIT, CLASSIFIER, GENERATIVE)
FREE, WITH_REFERENCE = "mean log-probability", "implicit reward"
# stored with scores, and part of kept results: not to be reworded
NOTE = "scored by the mean log-probability of a token, for want of a reference; trained models by their implicit reward"


@dataclass(frozen=True)
class RewardBenchOptions:
    """mode: "auto" means "classifier" if the model is one, else "implicit".

    both_orders: in the generative mode, show each pair in both orders.
    """

    mode: str = AUTO
    both_orders: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)


class RewardBench(BenchmarkDefaults):
    """RewardBench as a benchmark: the accuracy on pairs, by section."""

    name = "reward-bench"
    title = "RewardBench"
    needs_logprobs = True
    turns = 2
    sections = "section"
    scores_classifiers = True
    data_files = (
        HubRows(
            "rewardbench/rewardbench.jsonl",
            "allenai/reward-bench",
            "filtered",
            ("id", "subset", "prompt", "chosen", "rejected"),
        ),
    )
    size = BenchmarkSize(questions=2985, prompt=500, reads=4)
    testbed_size = BenchmarkSize(questions=360, prompt=45, reads=4)
    parts = {"sections": "by section"}
    Options = RewardBenchOptions

    def hub_task(self, options: RewardBenchOptions) -> HubTask:
        return HubTask("allenai/reward-bench", "filtered")

    def load(self, data_dir: Path, settings: Settings) -> list[RewardBenchItem]:
        options = settings.options or RewardBenchOptions()
        folder = data_dir / "rewardbench"
        sections = load_sections(folder)
        section_of = {subset: section for section, subsets in sections.items() for subset in subsets}
        prompt = _pair_prompt(data_dir) if options.mode == GENERATIVE else None
        items: list[RewardBenchItem] = []
        file = files.find(folder, self.name, *ROWS)
        rows = files.read_located_rows(file, prompt=str, chosen=str, rejected=str, subset=str)
        for index, (where, row) in enumerate(rows):
            if row["subset"] not in section_of:
                raise UserError(f"{where}: subset {row['subset']!r:.60} is in no section")
            item: RewardBenchItem = {
                "id": str(index),
                "subset": row["subset"],
                "section": section_of[row["subset"]],
                "count": sections[section_of[row["subset"]]][row["subset"]],
                "sections": list(sections),
                "prompt": row["prompt"],
                "chosen": row["chosen"],
                "rejected": row["rejected"],
            }
            if prompt:
                item["judge_prompt"] = prompt
            items.append(item)
        return items

    def answer(
        self, policy: Policy, items: list[RewardBenchItem], settings: Settings, advance: Advance | None
    ) -> list[PairSample]:
        options = settings.options or RewardBenchOptions()
        classifier = policy.engine if isinstance(policy.engine, RewardEngine) else None
        mode = (CLASSIFIER if classifier else IMPLICIT) if options.mode == AUTO else options.mode
        if (classifier is not None) != (mode == CLASSIFIER):
            what = "a sequence classifier" if classifier else "not a sequence classifier"
            raise UserError(f"{policy.engine.name} is {what}: it cannot be scored in the mode {mode!r}")
        if classifier:
            return classifier_rows(classifier, items, advance)
        if mode == GENERATIVE:
            return generative_rows(policy.engine, items, settings, options.both_orders, advance)
        return implicit_rows(policy, items, advance)

    def clusters(self, items: Iterable[RewardBenchItem]) -> dict[str, str]:
        """Cluster by prompt, which subsets can share, and by problem of HumanEvalPack, asked in six languages."""
        return {item["id"]: _shared(item) for item in items}

    def score(self, items: list[RewardBenchItem], samples: list[PairSample], judgments: list[Any]) -> Score:
        scored = pair_score(self.name, items, samples)
        row = next((row for row in samples if not row.get("too_long")), None)
        if row is not None and row["mode"] != IMPLICIT:
            how = {"mode": row["mode"]}
        elif row is None or row.get("chosen_reference_logprob") is None:
            how = {"mode": IMPLICIT, "reward": FREE, "note": NOTE}
        else:
            how = {"mode": IMPLICIT, "reward": WITH_REFERENCE}
        return replace(scored, details=how | scored.details | {"controls": controls(items)})


def controls(items: Sequence[RewardBenchItem]) -> dict[str, float]:
    """Return what two rules that read nothing would score: the longer response wins (equal ones tie), and the response
    that is shown first, in a seeded order, wins."""
    first = chosen_first([item["id"] for item in items], 0)
    rules: dict[str, Callable[[RewardBenchItem], str]] = {"the longest wins": _longest, "the first wins": _first(first)}
    return {
        name: pair_score(
            "", items, [{"id": item["id"], "mode": GENERATIVE, "choices": [rule(item)]} for item in items]
        ).value
        for name, rule in rules.items()
    }


def _longest(item: RewardBenchItem) -> str:
    chosen, rejected = len(item["chosen"]), len(item["rejected"])
    return "tie" if chosen == rejected else SIDES[chosen < rejected]


def _first(shown: Mapping[str, bool]) -> Callable[[RewardBenchItem], str]:
    return lambda item: SIDES[not shown[item["id"]]]


def pair_score(benchmark: str, items: Sequence[RewardBenchItem], rows: Sequence[PairSample]) -> Score:
    """Return the score of rows of `reward_bench_modes`: the mean of the sections, in percent."""
    outcomes = {row["id"]: outcome(row) for row in rows}
    wins = {identifier: win for identifier, win in outcomes.items() if win is not None}
    scored = [item for item in items if item["id"] in wins]
    missing = sum(bool(row.get("too_long")) for row in rows)
    by_subset = defaultdict(list)
    for item in scored:
        by_subset[item["subset"]].append(wins[item["id"]])
    accuracies = {subset: 100 * fmean(values) for subset, values in by_subset.items()}
    counts = {item["subset"]: item["count"] for item in scored}
    section_of = {item["subset"]: item["section"] for item in scored}
    totals: dict[str, float] = defaultdict(float)
    for subset, count in counts.items():
        totals[section_of[subset]] += count
    sections = section_scores(accuracies, counts, section_of)
    choices = [choice for row in rows for choice in row.get("choices", ())]
    return Score(
        benchmark=benchmark,
        metric="accuracy %",
        value=fmean(sections.values()) if sections else float("nan"),
        values={identifier: 100 * win for identifier, win in wins.items()},
        weights={
            item["id"]: item["count"] / len(by_subset[item["subset"]]) / totals[item["section"]] for item in scored
        },
        questions=len(items),
        missing=missing,
        unparsed=len(rows) - len(wins) - missing,
        details={
            "sections": sections,
            "subsets": accuracies,
            "sections_absent": [name for name in items[0]["sections"] if name not in sections],
            **({"verdicts": len(choices), "verdicts_unparsed": choices.count(None)} if choices else {}),
        },
    )


def _shared(item: RewardBenchItem) -> str:
    """Return what an item has in common with others: its prompt, or the name of the function that it asks for."""
    if item["subset"].startswith(CODE) and (function := FUNCTION.search(item["prompt"])):
        return f"function {function[1].replace('_', '').lower()}"
    return " ".join(item["prompt"].split())


def load_sections(folder: Path) -> dict[str, dict[str, int]]:
    """Return section -> subset -> example count from the folder's facts.json, or the official ones without it.

    Raises:
        UserError: when that file is malformed.
    """
    path = folder / "facts.json"
    if not path.exists():
        return SECTIONS
    facts = read_json(path)
    match facts:
        case {"EXAMPLE_COUNTS": dict() as counts, "SUBSET_MAPPING": dict() as mapping}:
            wanted = {subset for subsets in mapping.values() for subset in subsets}
            if wanted and all(type(counts.get(subset)) is int and counts[subset] > 0 for subset in wanted):
                return {name: {subset: counts[subset] for subset in subsets} for name, subsets in mapping.items()}
    raise UserError(f"{path}: must hold EXAMPLE_COUNTS {{subset: number}} and SUBSET_MAPPING {{section: [subsets]}}")


def _pair_prompt(data_dir: Path) -> JudgePrompt:
    """Return the judge prompt for pairs from MT-Bench's file."""
    file = files.find(data_dir / "mt_bench", "mt-bench", "judge_prompts.jsonl")
    for row in files.read_rows(file, name=str, system_prompt=str, prompt_template=str):
        if row["name"] == PROMPT:
            return {"system": row["system_prompt"], "template": row["prompt_template"]}
    raise UserError(f"{file}: no prompt named {PROMPT}")
