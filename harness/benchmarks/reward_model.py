"""A method's pairs as the data of a reward model, scored on RewardBench (the paper's second result).

Each method's reward model starts from the same untrained model with the same settings, so that only the pairs differ.
What its training spends is recorded with the score, outside the budget of the run.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.reward_bench import RewardBench, controls, pair_score
from harness.benchmarks.reward_bench_modes import classifier_rows
from harness.benchmarks.rows import PairSample, RewardBenchItem
from harness.errors import UserError
from harness.methods.prompts import PromptFile, load_prompts, rows_by_name
from harness.progress import Advance, progress
from harness.training.pairs import RewardOptions
from harness.types import Prompt

FOLDER = "reward-model"  # below the policy's folder


@dataclass(frozen=True)
class RewardModelBenchOptions(RewardOptions):
    """Settings of the training, and its data besides the method's pairs.

    preferences: a file of labelled pairs to mix in, such as Skywork's.
    max_pairs: sample this many of the method's pairs, to give methods equal numbers.
    """

    preferences: str | None = None
    max_pairs: int | None = None


class RewardModelBench(BenchmarkDefaults):
    """A reward model trained on a method's pairs, as a benchmark: its accuracy on RewardBench."""

    name = "reward-model"
    title = "RewardBench (reward model)"
    needs_pairs = True
    turns = 2
    sections = "section"
    parts = RewardBench.parts
    Options = RewardModelBenchOptions

    def pairs(self, own: Sequence[Prompt] | None, settings: Settings) -> list[Prompt]:
        """Return what a reward model is trained on: a method's pairs, and given ones."""
        options = settings.options or RewardModelBenchOptions()
        return [*own_pairs(own, options, settings.seed), *given_pairs(options).prompts]

    def load(self, data_dir: Path, settings: Settings) -> list[RewardBenchItem]:
        return RewardBench().load(data_dir, replace(settings, options=None))

    def answer(
        self, policy: Policy, items: list[RewardBenchItem], settings: Settings, advance: Advance | None
    ) -> list[PairSample]:
        from harness.engines.classifier import RewardModel
        from harness.engines.transformers import TransformersEngine
        from harness.training.reward_model import train_reward_model

        options = settings.options or RewardModelBenchOptions()
        engine = policy.reference or policy.engine
        if not isinstance(start := engine.local, TransformersEngine):
            raise UserError(f"{self.name}: {engine.name} cannot be trained here: its weights are not in this process")
        own, given = own_pairs(policy.pairs, options, settings.seed), given_pairs(options)
        pairs = [*own, *given.prompts]
        if not pairs:
            raise UserError(f"{self.name}: there are no pairs to train on; give --set {self.name}.preferences=FILE")
        if given.unused:
            print(f"{options.preferences}: unused columns: {rows_by_name(given.unused)}", file=sys.stderr)
        print(
            f"reward model: training on {len(own)} of the method's pairs and {len(given.prompts)} given ones",
            file=sys.stderr,
        )
        label = "reward model: train"
        with tempfile.TemporaryDirectory() as temporary, progress(label, options.epochs * len(pairs)) as trained:
            folder = (policy.folder or Path(temporary)) / FOLDER
            result = train_reward_model(start, pairs, _training(options), folder, settings.seed, trained)
            dtype = str(start.model.dtype).removeprefix("torch.")
            model = RewardModel.load(result.checkpoint, str(start.device), dtype, engine.batch_size)
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
        rows = classifier_rows(model, items, advance)
        model.release()
        return [{**row, "training": training} for row in rows]

    def score(self, items: list[RewardBenchItem], samples: list[PairSample], judgments: list[Any]) -> Score:
        scored = pair_score(self.name, items, samples)
        if not scored.values:
            raise UserError(f"{self.name}: no pair has a reward: each is longer than the context of the reward model")
        known = [row for row in samples if not row.get("too_long")]
        details = {
            "ties": sum(row["chosen_reward"] == row["rejected_reward"] for row in known),
            "training": samples[0]["training"],
            "controls": controls(items),
        }
        return replace(scored, details=scored.details | details)


def own_pairs(own: Sequence[Prompt] | None, options: RewardModelBenchOptions, seed: int) -> list[Prompt]:
    """Return the method's pairs, or a sample of them if max_pairs asks for fewer."""
    pairs = list(own or ())
    if options.max_pairs is None or options.max_pairs >= len(pairs):
        return pairs
    if options.max_pairs < 0:
        raise UserError(f"max_pairs {options.max_pairs} must not be below 0")
    return random.Random(f"reward-model/{seed}").sample(pairs, options.max_pairs)


def given_pairs(options: RewardModelBenchOptions) -> PromptFile:
    """Return the labelled pairs to mix in."""
    if options.preferences is None:
        return PromptFile([], 0, 0, {})
    return load_prompts(options.preferences, labelled=True)


def _training(options: RewardModelBenchOptions) -> RewardOptions:
    return RewardOptions(**{field.name: getattr(options, field.name) for field in fields(RewardOptions)})
