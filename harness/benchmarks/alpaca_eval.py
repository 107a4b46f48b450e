"""AlpacaEval 2.0 (Dubois et al. 2024): instructions answered, each compared with a reference output by a judge.

The prompt template, the seeded order of a pair, the reading of log-probabilities and both win rates are those of the
package alpaca-eval; only the completions come from our judge.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

from harness.benchmarks import files
from harness.benchmarks.base import Judging, NoOptions, Policy, Score, Settings
from harness.engines.base import Advance, Message, Sampling
from harness.judges.base import Judge, JudgeReply, JudgeRequest
from harness.judges.templates import fill
from harness.judges.verdicts import names_of_judges

MAX_NEW_TOKENS = 2048
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
LETTERS = ("m", "M")  # the judge's name for the first and the second output shown
KEYS = ("instruction", "output_1", "output_2")
Pair = dict[str, str]  # KEYS -> text
ALL = 805  # instructions of the official set: the length-controlled win rate needs them all
REFERENCES = ("reference.json", "reference_gpt4_1106_preview_model_outputs.json")


class AlpacaEval:
    name = "alpaca-eval"
    title = "AlpacaEval 2.0"
    needs_judge = True
    needs_pairs = False
    turns = 1
    Options = NoOptions

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

    def judge(
        self, items: list[dict], samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        outputs = {sample["id"]: sample["output"] for sample in samples}
        pairs = [
            {"instruction": item["instruction"], "output_1": item["reference"], "output_2": outputs[item["id"]]}
            for item in items
        ]
        replies: dict[tuple, JudgeReply] = {}

        def complete(prompts: Sequence[Pair], template: Sequence[Message]) -> dict[str, list]:
            requests = [
                JudgeRequest(
                    str(number),
                    tuple({**message, "content": fill(message["content"], pair)} for message in template),
                    max_tokens=1,
                    temperature=1.0,
                    alternatives=LETTERS,
                )
                for number, pair in enumerate(prompts)
            ]
            answers = judge.complete(requests, advance)
            replies.update(zip(map(_key, prompts), answers, strict=True))
            return {
                "completions_all": answers,
                "price_per_example": [0.0] * len(answers),
                "time_per_example": [0.0] * len(answers),
            }

        annotate = _annotator(complete)
        with _without_bar():
            preferences = {_key(row): row["preference"] for row in annotate(pairs, chunksize=None)}
        rows = []
        for item, pair in zip(items, pairs, strict=True):
            reply = replies.get(_key(pair))  # none was asked for where both outputs are the same: a tie
            rows.append(
                {
                    "id": item["id"],
                    "preference": _number(preferences.get(_key(pair))),
                    "judge": (reply.model or judge.name) if reply else None,
                    "error": reply.error if reply else None,
                    "fingerprint": reply.fingerprint if reply else None,
                    "date": reply.date if reply else None,
                }
            )
        return rows

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        _import_package()
        from alpaca_eval.metrics import get_winrate

        outputs = {sample["id"]: sample["output"] for sample in samples}
        known = [row for row in judgments if row["preference"] is not None]
        details = {"average_length": fmean(len(output) for output in outputs.values())}
        if known:
            rates = get_winrate([{"preference": row["preference"]} for row in known])
            details |= {"win_rate": float(rates["win_rate"]), "standard_error": float(rates["standard_error"])}
        deltas = {len(item["reference"]) - len(outputs[item["id"]]) for item in items}
        if items[0]["df_gamed"] and len(known) == ALL and len(deltas) > 1:  # the model divides by their spread
            details["length_controlled_win_rate"] = length_controlled(items, outputs, known, Path(items[0]["df_gamed"]))
        replied = [row for row in judgments if not row["error"]]
        missing = len(judgments) - len(replied)
        return Score(
            benchmark=self.name,
            metric="win rate %",
            value=details.get("win_rate", float("nan")),
            values={row["id"]: 100 * (row["preference"] - 1) for row in known},
            questions=len(items),
            missing=missing,
            unparsed=len(judgments) - len(known) - missing,
            judge=names_of_judges(row["judge"] for row in replied or judgments),
            details=details,
        )


def _import_package() -> None:
    """Import alpaca_eval without its warning (pkg_resources) and its change of the root logger's level."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import alpaca_eval.annotators
        import alpaca_eval.metrics  # noqa: F401
    logging.getLogger().setLevel(level)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Inside, the package shows no bar of its own: all pairs are one chunk, and progress is ours to show."""
    from alpaca_eval import utils

    bar = utils.tqdm
    utils.tqdm = SimpleNamespace(tqdm=lambda chunks, **_options: chunks)
    try:
        yield
    finally:
        utils.tqdm = bar


def _annotator(complete: Callable):
    """The package's annotator with our completions; nothing is cached or written.

    It shuffles and swaps pairs and reads the letters. It does not fill the prompt: it would replace "{output_2}" inside
    an output too. Its "prompts" are the pairs as they are to be shown, its completions our replies.
    """
    _import_package()
    from alpaca_eval.annotators import PairwiseAnnotator

    annotator = PairwiseAnnotator(annotators_config=ANNOTATOR, caching_path=None)
    (single,) = annotator.annotators.values()
    parse = single.fn_completion_parser
    single.completions_kwargs = {"template": _messages(single.prompt_template)}
    single.fn_completions = complete
    single._make_prompts = lambda frame: (frame[list(KEYS)].to_dict("records"), frame)
    single.fn_completion_parser = lambda reply: parse(_as_openai(reply)) if _has_letter(reply) else [None]
    return annotator


def _key(pair: Pair) -> tuple:
    """What a pair is recognized by, in either order of its outputs."""
    return pair["instruction"], *sorted((pair["output_1"], pair["output_2"]))


def _number(preference: float | None) -> float | None:
    """1 to 2, a tie (0 for equal outputs) as 1.5; None where the judge gave none."""
    if preference is None or isnan(preference):
        return None
    return float(preference) or 1.5


def _messages(template: str) -> list[Message]:
    """The system and the user message of the package's template; an output can hold marks of a chat without effect."""
    turns = [turn.partition("\n") for turn in template.split("<|im_start|>")[1:]]
    return [{"role": role, "content": rest.partition("<|im_end|>")[0].strip()} for role, _, rest in turns]


def _has_letter(reply: JudgeReply) -> bool:
    return not set(LETTERS).isdisjoint(reply.first_token or ())


def _as_openai(reply: JudgeReply) -> dict:
    """A reply as the package's parser wants it."""
    top = [{"token": token, "logprob": logprob} for token, logprob in reply.first_token.items()]
    return {"text": reply.text, "logprobs": {"content": [{"token": reply.text, "top_logprobs": top}]}}


def length_controlled(items: list[dict], outputs: dict[str, str], known: list[dict], df_gamed: Path) -> float:
    """The length-controlled win rate in percent, by the package's logistic model with the given df_gamed file."""
    _import_package()
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn, about the package's parameters
            rates = glm_winrate.get_length_controlled_winrate(ordered, save_weights_dir=None)
    finally:
        glm_winrate.hf_hub_download = download
    return float(rates["length_controlled_winrate"])
