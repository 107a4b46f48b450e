"""Share of replies that end within a number of tokens."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from harness.benchmarks import BenchmarkDefaults, Policy, Score, Settings
from harness.engines.base import Advance, Sampling

THINGS = ("chair", "lamp", "garden", "letter", "song", "bridge", "clock", "kite")


class Brevity(BenchmarkDefaults):
    name = "brevity"
    title = "Brevity"

    @dataclass(frozen=True)
    class Options:
        """tokens: of the longest reply that counts as brief."""

        tokens: int = 20

    def load(self, data_dir: Path, settings: Settings) -> list[dict]:
        return [{"id": thing, "prompt": f"I want to sell a {thing}. How?"} for thing in THINGS]

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        limit = (settings.options or self.Options()).tokens
        replies = policy.engine.generate(
            [policy.engine.encode_chat([{"role": "user", "content": item["prompt"]}]) for item in items],
            [f"{self.name}/{item['id']}" for item in items],
            Sampling(limit, settings.temperature or 0.0, seed=settings.seed),
            advance,
        )
        return [
            {"id": item["id"], "response": reply.text, "brief": reply.finished}
            for item, reply in zip(items, replies, strict=True)
        ]

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        values = {sample["id"]: 100.0 * sample["brief"] for sample in samples}
        return Score(self.name, "brief %", fmean(values.values()), values, questions=len(items))
