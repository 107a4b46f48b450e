"""The prompts that trials of tuning are scored on: kept from all training, answered, and rated by the judge.

They take the way of a benchmark: answers, judgments and score are files, each made from the one before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.benchmarks.base import Judging, Policy, Score, Settings
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
    """Prompts for scoring trials, and what of prompts and labelled pairs is left to train on."""

    development: Prompts
    prompts: Prompts
    labelled: Prompts


def split(experiment: Experiment, prompts: Prompts, labelled: Prompts) -> PromptSplit:
    """Keeps prompts from training: of the prompts, or of the labelled pairs where only these were given.

    Of the testbed's, those about certain content; of others, those whose messages have the smallest digests. All that
    asks the same leaves the training data with them.

    Raises:
        UserError: when too few would be left.
    """
    only_pairs = experiment.prompts == TESTBED != experiment.preferences
    option, source = ("preferences", labelled) if only_pairs else ("prompts", prompts)
    kept = _kept(source, getattr(experiment, option) == TESTBED, experiment.tune_prompts)
    found = [prompt for prompt in source if kept(prompt)]
    if len(found) < experiment.tune_prompts or 2 * experiment.tune_prompts > len(source):
        raise UserError(
            f"the {option} are too few to keep {experiment.tune_prompts} of them for tuning "
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


class Development:
    """Answers to the kept prompts, sampled as training data are, each rated by the judge from 1 to 10."""

    name = NAME
    title = "kept prompts"
    needs_judge = True
    needs_pairs = False
    turns = 1

    @dataclass(frozen=True)
    class Options:
        top_p: float = 1.0

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        prompts = [policy.engine.encode_chat(_chat(item)) for item in items]
        sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.options.top_p, settings.seed)
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
        self, items: list[dict], samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
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

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
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
