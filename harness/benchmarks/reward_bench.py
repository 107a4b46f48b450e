"""RewardBench (Lambert et al. 2024): does a reward prefer the chosen response to the rejected one?

The reward here is a policy's implicit one, beta * (log pi - log pi_ref); without a reference it is the mean
log-probability of a token, as the official code has it for models without one.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from harness.benchmarks import files
from harness.benchmarks.base import Judging, NoOptions, Policy, Score, Settings
from harness.engines.base import Advance, Engine, TokenIds
from harness.errors import UserError
from harness.judges.base import Judge

ROWS = ("rewardbench.jsonl", "rewardbench_*.jsonl")
FREE, IMPLICIT = "mean log-probability", "implicit reward"
NOTE = "scored by the mean log-probability of a token, for want of a reference; trained models by their implicit reward"
SECTIONS = {  # section -> subset -> official example count (allenai/reward-bench, rewardbench/constants.py)
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {"math-prm": 984, **{f"hep-{each}": 164 for each in ("cpp", "go", "java", "js", "python", "rust")}},
}


class RewardBench:
    name = "reward-bench"
    title = "RewardBench"
    needs_judge = False
    needs_pairs = False
    turns = 2
    Options = NoOptions

    def load(self, data_dir: Path, settings: Settings) -> list[dict]:
        folder = data_dir / "rewardbench"
        sections = load_sections(folder)
        section_of = {subset: section for section, subsets in sections.items() for subset in subsets}
        file = files.find(folder, self.name, *ROWS)
        rows = files.read_rows(file, prompt=str, chosen=str, rejected=str, subset=str)
        if unknown := {row["subset"] for row in rows} - set(section_of):
            raise UserError(f"{file}: subsets {', '.join(sorted(unknown))} are in no section")
        return [
            {
                "id": str(index),
                "subset": row["subset"],
                "section": section_of[row["subset"]],
                "count": sections[section_of[row["subset"]]][row["subset"]],
                "sections": list(sections),
                "prompt": row["prompt"],
                "chosen": row["chosen"],
                "rejected": row["rejected"],
            }
            for index, row in enumerate(rows[: settings.limit])
        ]

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        own = _logprobs(policy.engine, items, advance)
        reference = _logprobs(policy.reference, items, None) if policy.reference else None
        rows = []
        for index, item in enumerate(items):
            row = {"id": item["id"], "beta": policy.beta}
            for side in ("chosen", "rejected"):
                row[f"{side}_logprob"] = own[side][index].total
                row[f"{side}_tokens"] = own[side][index].tokens
                row[f"{side}_reference_logprob"] = reference[side][index].total if reference else None
            rows.append(row)
        return rows

    def judge(
        self, items: list[dict], samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        return []

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        wins = {sample["id"]: float(reward(sample, "chosen") > reward(sample, "rejected")) for sample in samples}
        by_subset = defaultdict(list)
        for item in items:
            by_subset[item["subset"]].append(wins[item["id"]])
        accuracies = {subset: 100 * fmean(values) for subset, values in by_subset.items()}
        counts = {item["subset"]: item["count"] for item in items}
        section_of = {item["subset"]: item["section"] for item in items}
        sections = section_scores(accuracies, counts, section_of)
        totals = defaultdict(float)
        for subset, count in counts.items():
            totals[section_of[subset]] += count
        free = samples[0]["chosen_reference_logprob"] is None
        return Score(
            benchmark=self.name,
            metric="accuracy %",
            value=fmean(sections.values()),
            values={identifier: 100 * win for identifier, win in wins.items()},
            weights={
                item["id"]: item["count"] / len(by_subset[item["subset"]]) / totals[item["section"]] for item in items
            },
            questions=len(items),
            details={
                "reward": FREE if free else IMPLICIT,
                **({"note": NOTE} if free else {}),
                "sections": sections,
                "subsets": accuracies,
                "sections_absent": [name for name in items[0]["sections"] if name not in sections],
            },
        )


def load_sections(folder: Path) -> dict[str, dict[str, int]]:
    """Section -> subset -> example count: those of the folder's facts.json, else the official ones."""
    if not (folder / "facts.json").exists():
        return SECTIONS
    facts = files.read_json(folder / "facts.json")
    counts = facts["EXAMPLE_COUNTS"]
    return {name: {subset: counts[subset] for subset in subsets} for name, subsets in facts["SUBSET_MAPPING"].items()}


def _logprobs(engine: Engine, items: list[dict], advance: Advance | None) -> dict[str, list]:
    prompts: list[TokenIds] = [engine.encode_chat([{"role": "user", "content": item["prompt"]}]) for item in items]
    return {
        side: engine.logprobs(prompts, [engine.encode_completion(item[side]) for item in items], advance)
        for side in ("chosen", "rejected")
    }


def reward(sample: Mapping, side: str) -> float:
    """Reward of the chosen or rejected response of a stored sample."""
    reference = sample[f"{side}_reference_logprob"]
    if reference is None:
        return sample[f"{side}_logprob"] / sample[f"{side}_tokens"]
    return sample["beta"] * (sample[f"{side}_logprob"] - reference)


def section_scores(
    accuracies: Mapping[str, float], counts: Mapping[str, int], section_of: Mapping[str, str]
) -> dict[str, float]:
    """Accuracy of each section: its subsets weighted by the official example counts (math-prm counts 984)."""
    sums, totals = defaultdict(float), defaultdict(float)
    for subset, accuracy in accuracies.items():
        sums[section_of[subset]] += accuracy * counts[subset]
        totals[section_of[subset]] += counts[subset]
    return {section: sums[section] / totals[section] for section in sums}
