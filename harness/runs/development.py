"""The prompts that trials of tuning are scored on: held out from training, answered, and rated by the judge.

They are scored like a benchmark: answers, judgments and score are files, each made from the one before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from harness.benchmarks.base import Judging, Policy, Questions, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.judges.base import Judge, complete
from harness.judges.rating import rating_request
from harness.judges.verdicts import forged, has_rating, names_of_judges, rating_of
from harness.models.folder import TESTBED
from harness.progress import Advance
from harness.types import Chat, Prompt

NAME = "development"
Prompts = Sequence[Prompt]


@dataclass(frozen=True)
class PromptSplit:
    """Prompts for scoring trials, and the prompts and labelled pairs that are left for training."""

    development: Prompts
    prompts: Prompts
    labelled: Prompts


def split(experiment: Experiment, prompts: Prompts, labelled: Prompts) -> PromptSplit:
    """Hold out prompts from training: from the prompts, or from the labelled pairs where only these were given.

    From the testbed's prompts, those about certain content; from others, those whose messages have the smallest
    digests. Everything that asks the same leaves the training data too.

    Raises:
        UserError: when too few would be left.
    """
    only_pairs = experiment.prompts == TESTBED and experiment.preferences != TESTBED
    option, source = ("preferences", labelled) if only_pairs else ("prompts", prompts)
    kept = _kept(source, getattr(experiment, option) == TESTBED, experiment.tune_prompts)
    found = [prompt for prompt in source if kept(prompt)]
    if len(found) < experiment.tune_prompts or 2 * experiment.tune_prompts > len(source):
        raise UserError(
            f"there are too few {option} to hold out {experiment.tune_prompts} for tuning "
            f"(at most {min(len(found), len(source) // 2)}): give fewer --tune-prompts, or more {option}"
        )
    left = [[prompt for prompt in each if not kept(prompt)] for each in (prompts, labelled)]
    return PromptSplit(found[: experiment.tune_prompts], *left)


def _kept(source: Prompts, testbed: bool, number: int) -> Callable[[Prompt], bool]:
    if testbed:
        from harness.testbed.development import is_kept

        return is_kept
    chosen = set(sorted({_digest(prompt) for prompt in source})[:number])
    return lambda prompt: _digest(prompt) in chosen


def _digest(prompt: Prompt) -> str:
    return store.digest(prompt.messages)


@dataclass(frozen=True)
class DevelopmentOptions:
    """top_p: that of training data."""

    top_p: float = 1.0


class Development(BenchmarkDefaults):
    """Answers to the held-out prompts, sampled like training data, each rated by the judge from 1 to 10."""

    name = NAME
    title = "kept prompts"
    needs_judge = True
    question_fields: tuple[str, ...] = ()

    Options: type = DevelopmentOptions

    def load(self, data_dir: Path, settings: Settings) -> Questions:
        """No questions: they are the prompts of the experiment."""
        return Questions(())

    def answer(self, policy: Policy, items: Questions, settings: Settings, advance: Advance | None) -> list[dict]:
        prompts = [policy.engine.encode_chat(_chat(item)) for item in items]
        tokens, temperature = settings.max_new_tokens, settings.temperature
        assert tokens is not None and temperature is not None, "a trial samples as training does"
        sampling = Sampling(tokens, temperature, settings.options.top_p, settings.seed)
        completions = policy.engine.generate(prompts, [f"{NAME}/{item['id']}" for item in items], sampling, advance)
        return [
            {
                "id": item["id"],
                "output": completion.text,
                "finished": completion.finished,
                "prompt_tokens": len(prompt),
                "tokens": len(completion.token_ids),
            }
            for item, prompt, completion in zip(items, prompts, completions, strict=True)
        ]

    def judge(
        self, items: Questions, samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        outputs = {sample["id"]: sample["output"] for sample in samples}
        requests = [rating_request(item["id"], item["messages"], outputs[item["id"]]) for item in items]
        replies = complete(judge, requests, has_rating, judging.rejudge, advance)
        return [
            {
                "id": reply.id,
                "rating": rating_of(reply),
                "judge": reply.model or judge.name,
                "error": reply.error,
                "finish_reason": reply.finish_reason,
                "form": list(reply.form),
                "fingerprint": reply.fingerprint,
                "date": reply.date,
                "text": reply.text,
            }
            for reply in replies
        ]

    def score(self, items: Questions, samples: list[dict], judgments: list[dict]) -> Score:
        values = {row["id"]: row["rating"] for row in judgments if row["rating"] is not None}
        replied = [row for row in judgments if not row["error"]]
        return Score(
            benchmark=NAME,
            metric="rating (1-10)",
            value=fmean(values.values()) if values else float("nan"),
            values=values,
            questions=len(items),
            missing=len(judgments) - len(replied),
            unparsed=len(replied) - len(values),
            judge=names_of_judges(row["judge"] for row in replied or judgments),
            details=forged(sample["output"] for sample in samples),
        )


def _chat(item: dict) -> Chat:
    return Chat(tuple(item["messages"]), tuple(item.get("tools", ())), item.get("chat_template_kwargs", {}))
