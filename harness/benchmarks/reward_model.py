"""The data of a method as a reward model: trained on its pairs, scored on RewardBench (the paper's second result).

Every method's reward model starts from the same untrained model and gets the same settings, so that only the pairs
differ. What its training spends is recorded with the score, apart from the budget of the run.
"""

import random
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from harness.benchmarks.base import Judging, Policy, Score, Settings
from harness.benchmarks.reward_bench import RewardBench, section_scores
from harness.engines.base import Advance
from harness.errors import UserError
from harness.judges.base import Judge
from harness.methods import Prompt
from harness.prompts import PromptFile, load_prompts
from harness.training.pairs import RewardOptions

if TYPE_CHECKING:
    from harness.engines.classifier import RewardModel

FOLDER = "reward-model"  # below the policy's folder
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Options(RewardOptions):
    """Settings of the training, and what it is given beside the method's pairs."""

    preferences: str | None = None  # a file of labelled pairs that are mixed in, such as Skywork's
    max_pairs: int | None = None  # of the method's pairs, a sample: makes methods equal in number


class RewardModelBench:
    name = "reward-model"
    title = "RewardBench (reward model)"
    needs_judge = False
    needs_pairs = True
    turns = 2
    Options = Options

    def has_pairs(self, policy: Policy, settings: Settings) -> bool:
        """Whether there is anything to train a reward model on."""
        return bool(policy.pairs) or bool(settings.options and settings.options.preferences)

    def load(self, data_dir: Path, settings: Settings) -> list[dict]:
        return RewardBench().load(data_dir, replace(settings, options=None))

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        from harness.engines.classifier import RewardModel
        from harness.training.reward_model import train_reward_model

        options = settings.options or Options()
        start = policy.reference or policy.engine
        own, given = own_pairs(policy, options, settings.seed), given_pairs(options)
        pairs = [*own, *given.prompts]
        if not pairs:
            raise UserError(f"{self.name}: there are no pairs to train on; give --set {self.name}.preferences=FILE")
        print(f"reward model: training on {len(own)} own and {len(given.prompts)} given pairs", file=sys.stderr)
        with tempfile.TemporaryDirectory() as temporary:
            result = train_reward_model(
                start, pairs, _training(options), (policy.folder or Path(temporary)) / FOLDER, settings.seed
            )
            model = RewardModel.load(result.checkpoint, str(start.device), start.batch_size)
        training = {
            "own_pairs": len(own),
            "given_pairs": len(given.prompts),
            "given_left_out": given.duplicates + given.empty,
            "preferences": options.preferences,
            "trained_pairs": result.pairs,
            "too_long": result.too_long,
            "identical": result.identical,
            "loss": result.loss,
            "accuracy": 100 * result.accuracy,
            "trained_tokens": result.spent.trained_tokens,
            "updates": result.spent.updates,
            "flops": result.spent.flops,
        }
        rows = reward_rows(model, items, advance)
        model.release()
        return [{**row, "training": training} for row in rows]

    def judge(
        self, items: list[dict], samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        return []

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        wins = {
            row["id"]: float(row["chosen_reward"] > row["rejected_reward"])
            for row in samples
            if row["chosen_reward"] is not None
        }
        scored = [item for item in items if item["id"] in wins]
        if not scored:
            raise UserError(f"{self.name}: no pair has a reward; each is longer than the context of the reward model")
        by_subset = defaultdict(list)
        for item in scored:
            by_subset[item["subset"]].append(wins[item["id"]])
        accuracies = {subset: 100 * fmean(values) for subset, values in by_subset.items()}
        counts = {item["subset"]: item["count"] for item in scored}
        section_of = {item["subset"]: item["section"] for item in scored}
        totals = defaultdict(float)
        for subset, count in counts.items():
            totals[section_of[subset]] += count
        sections = section_scores(accuracies, counts, section_of)
        return Score(
            benchmark=self.name,
            metric="accuracy %",
            value=fmean(sections.values()),
            values={identifier: 100 * win for identifier, win in wins.items()},
            weights={
                item["id"]: item["count"] / len(by_subset[item["subset"]]) / totals[item["section"]] for item in scored
            },
            questions=len(items),
            missing=len(items) - len(scored),
            details={
                "reward": "reward model",
                "ties": sum(row["chosen_reward"] == row["rejected_reward"] for row in samples if row["id"] in wins),
                "sections": sections,
                "subsets": accuracies,
                "sections_absent": [name for name in items[0]["sections"] if name not in sections],
                "training": samples[0]["training"],
            },
        )


def reward_rows(model: "RewardModel", items: list[dict], advance: Advance | None) -> list[dict]:
    """Rewards of the chosen and rejected replies; None for both where one is longer than the model's context."""
    prompts = [model.encode_chat([{"role": "user", "content": item["prompt"]}]) for item in items]
    replies = {side: [model.encode_completion(item[side]) for item in items] for side in SIDES}
    fits = [
        index
        for index, prompt in enumerate(prompts)
        if len(prompt) + max(len(replies[side][index]) for side in SIDES) <= model.context_length
    ]
    if advance and len(fits) < len(items):
        advance(len(SIDES) * (len(items) - len(fits)))
    rows = [{"id": item["id"], **{f"{side}_reward": None for side in SIDES}} for item in items]
    for side in SIDES:
        rewards = model.rewards([prompts[index] for index in fits], [replies[side][index] for index in fits], advance)
        for index, reward in zip(fits, rewards, strict=True):
            rows[index][f"{side}_reward"] = reward
    return rows


def own_pairs(policy: Policy, options: Options, seed: int) -> list[Prompt]:
    """The method's pairs, or a sample of them where max_pairs asks for fewer."""
    pairs = list(policy.pairs or ())
    if options.max_pairs is None or options.max_pairs >= len(pairs):
        return pairs
    if options.max_pairs < 0:
        raise UserError(f"max_pairs {options.max_pairs} must not be below 0")
    return random.Random(f"reward-model/{seed}").sample(pairs, options.max_pairs)


def given_pairs(options: Options) -> PromptFile:
    if options.preferences is None:
        return PromptFile([], 0, 0)
    return load_prompts(options.preferences, labelled=True)


def _training(options: Options) -> RewardOptions:
    return RewardOptions(**{each.name: getattr(options, each.name) for each in fields(RewardOptions)})
