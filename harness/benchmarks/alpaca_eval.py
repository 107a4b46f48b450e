"""AlpacaEval 2.0 (Dubois et al. 2024): instructions answered, each compared with a reference output by a judge.

The prompt template, the seeded order of a pair, the reading of log-probabilities and both win rates are those of the
package alpaca-eval; only the completions come from our judge.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from harness.benchmarks import files
from harness.benchmarks.base import Policy, Score, Settings
from harness.engines.base import Advance, Sampling
from harness.judges.base import Judge, JudgeReply, JudgeRequest

MAX_NEW_TOKENS = 2048
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
TOP_LOGPROBS = 5
ALL = 805  # instructions of the official set: the length-controlled win rate needs them all
REFERENCES = ("reference.json", "reference_gpt4_1106_preview_model_outputs.json")


class AlpacaEval:
    name = "alpaca-eval"
    title = "AlpacaEval 2.0"
    needs_judge = True

    def load(self, data_dir: Path, settings: Settings) -> list[dict]:
        folder = data_dir / "alpaca_eval"
        references = files.read_rows(files.find(folder, self.name, *REFERENCES), instruction=str, output=str)
        gamed = sorted(folder.glob("df_gamed*.csv"))
        return [
            {
                "id": str(index),
                "instruction": row["instruction"],
                "reference": row["output"],
                "generator": row.get("generator", "reference"),
                "df_gamed": str(gamed[0]) if gamed and len(references) == ALL else None,
            }
            for index, row in enumerate(references[: settings.limit])
        ]

    def answer(self, policy: Policy, items: list[dict], settings: Settings, advance: Advance | None) -> list[dict]:
        completions = policy.engine.generate(
            [policy.engine.encode_chat([{"role": "user", "content": item["instruction"]}]) for item in items],
            [f"{self.name}/{item['id']}" for item in items],
            Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed),
            advance,
        )
        return [
            {
                "id": item["id"],
                "output": completion.text,
                "finished": completion.finished,
                "tokens": len(completion.token_ids),
            }
            for item, completion in zip(items, completions, strict=True)
        ]

    def judge(self, items: list[dict], samples: list[dict], judge: Judge, advance: Advance | None) -> list[dict]:
        replies: list[JudgeReply] = []

        def complete(prompts: Sequence[str], **_settings) -> dict[str, list]:
            requests = [
                JudgeRequest(str(number), _messages(prompt), max_tokens=1, temperature=1.0, top_logprobs=TOP_LOGPROBS)
                for number, prompt in enumerate(prompts)
            ]
            answers = judge.complete(requests, advance)
            replies.extend(answers)
            return {
                "completions": [reply.text for reply in answers],
                "completions_all": [_as_openai(reply) for reply in answers],
                "price_per_example": [0.0] * len(answers),
                "time_per_example": [0.0] * len(answers),
            }

        annotator = _annotator(complete)
        outputs = {sample["id"]: sample["output"] for sample in samples}
        asked = [
            {"id": item["id"], "instruction": item["instruction"], "output_1": item["reference"], "output_2": output}
            for item in items
            if (output := outputs[item["id"]])
        ]
        rows = {}
        for row, annotated in zip(asked, _annotate(annotator, asked), strict=True):
            rows[row["id"]] = annotated.get("preference")
        model = next((reply.model for reply in replies if reply.model), judge.name)
        errors = sorted({reply.error for reply in replies if reply.error})
        return [
            {
                "id": item["id"],
                "preference": _number(rows.get(item["id"])),
                "judge": model,
                "fingerprints": sorted({reply.fingerprint for reply in replies if reply.fingerprint}),
                "errors": errors,
            }
            for item in items
        ]

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        from alpaca_eval.metrics import get_winrate

        outputs = {sample["id"]: sample["output"] for sample in samples}
        known = [row for row in judgments if row["preference"] is not None]
        details = {"average_length": fmean(len(output) for output in outputs.values())}
        if known:
            rates = get_winrate([{"preference": row["preference"]} for row in known])
            details |= {"win_rate": float(rates["win_rate"]), "standard_error": float(rates["standard_error"])}
        if items[0]["df_gamed"] and len(known) == ALL:
            details["length_controlled_win_rate"] = length_controlled(items, outputs, known, Path(items[0]["df_gamed"]))
        empty = sum(not output for output in outputs.values())
        return Score(
            benchmark=self.name,
            metric="win rate %",
            value=details.get("win_rate", float("nan")),
            values={row["id"]: 100 * (row["preference"] - 1) for row in known},
            questions=len(items),
            missing=empty,
            unparsed=len(judgments) - len(known) - empty,
            judge=judgments[0]["judge"] if judgments else None,
            details=details,
        )


def _annotator(complete):
    """The package's annotator with our completions; nothing is cached or written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pkg_resources, which the package still imports
        from alpaca_eval.annotators import PairwiseAnnotator

    logging.getLogger().setLevel(logging.WARNING)  # the package lowers it to INFO when it is imported
    annotator = PairwiseAnnotator(annotators_config=ANNOTATOR, caching_path=None)
    (single,) = annotator.annotators.values()
    single.fn_completions = complete
    single.completions_kwargs = {}
    return annotator


def _annotate(annotator, asked: list[dict]) -> list[dict]:
    """Annotations in the order of `asked`; the package may return them in another order."""
    keys = ("instruction", "output_1", "output_2")
    annotated = {tuple(row[key] for key in keys): row for row in annotator(asked, chunksize=None)} if asked else {}
    return [annotated.get(tuple(row[key] for key in keys), {}) for row in asked]


def _number(preference) -> float | None:
    """1 to 2, a tie (0 for equal outputs) as 1.5; None where the judge gave none."""
    if preference is None or preference != preference:
        return None
    return float(preference) or 1.5


def _messages(prompt: str):
    """The template's chat: one system and one user message; marks of a chat inside outputs stay text."""
    system, _, user = prompt.partition("<|im_start|>user\n")
    system = system.partition("<|im_start|>system\n")[2].rpartition("<|im_end|>")[0]
    return (
        {"role": "system", "content": system.strip()},
        {"role": "user", "content": user.rpartition("<|im_end|>")[0].strip()},
    )


def _as_openai(reply: JudgeReply) -> dict | str:
    """A reply as the package's parser wants it; without log-probabilities it is empty and counts as missing."""
    if not reply.first_token:
        return ""
    top = [{"token": token, "logprob": logprob} for token, logprob in reply.first_token.items()]
    return {"text": reply.text, "logprobs": {"content": [{"token": reply.text, "top_logprobs": top}]}}


def length_controlled(items: list[dict], outputs: dict[str, str], known: list[dict], df_gamed: Path) -> float:
    """The length-controlled win rate in percent, by the package's logistic model with the given df_gamed file."""
    from alpaca_eval.metrics import glm_winrate

    by_id = {item["id"]: item for item in items}
    annotations = [
        {
            "preference": row["preference"],
            "instruction": by_id[row["id"]]["instruction"],
            "output_1": by_id[row["id"]]["reference"],
            "output_2": outputs[row["id"]],
            "generator_1": by_id[row["id"]]["generator"],
            "generator_2": "policy",
            "annotator": ANNOTATOR,
            "index": int(row["id"]),
        }
        for row in known
    ]
    return length_controlled_win_rate(annotations, df_gamed, glm_winrate)


def length_controlled_win_rate(annotations: list[dict], df_gamed: Path, glm_winrate) -> float:
    """From annotations in the package's format, sorted by index; nothing is downloaded or written."""
    download = glm_winrate.hf_hub_download
    glm_winrate.hf_hub_download = lambda **_where: str(df_gamed)
    try:
        ordered = sorted(annotations, key=lambda row: row["index"])
        rates = glm_winrate.get_length_controlled_winrate(ordered, save_weights_dir=None)
    finally:
        glm_winrate.hf_hub_download = download
    return float(rates["length_controlled_winrate"])
