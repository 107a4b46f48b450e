"""AlpacaEval 2.0 (Dubois et al. 2024): a judge compares each answer with a reference output.

The prompt template, the seeded order of a pair, the reading of log-probabilities and both win rates are those of the
package alpaca-eval; only the completions come from our judge.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.alpaca_annotations import summary
from harness.benchmarks.alpaca_annotator import LETTERS, SWITCHED, Pair, annotate, has_letter, key_of
from harness.benchmarks.alpaca_win_rates import KEYS, JudgedPair, find_gamed, official_index
from harness.benchmarks.base import BenchmarkSize, HubTask, Judging, NoOptions, Policy, Questions, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.rows import AlpacaAsking, AlpacaItem, AlpacaJudgment, AlpacaReply, AlpacaSample
from harness.endpoints.base import Comparison, JudgeReply, JudgeRequest
from harness.engines.base import Sampling
from harness.files.data_files import DataFile
from harness.judges.base import Judge, complete
from harness.judges.shares import note_of_form, noted
from harness.judges.templates import fill
from harness.judges.verdicts import forged, names_of_judges
from harness.progress import Advance
from harness.types import Message

MAX_NEW_TOKENS = 2048
GAMED = "df_gamed"  # the file that the length-controlled win rate needs
REFERENCES = ("reference.json", "reference_gpt4_1106_preview_model_outputs.json")


class AlpacaEval(BenchmarkDefaults):
    """AlpacaEval 2.0 as a benchmark: raw and length-controlled win rates."""

    name = "alpaca-eval"
    title = "AlpacaEval 2.0"
    question_fields = ("instruction",)
    needs_judge = True
    compares = True
    packages = ("alpaca-eval", "scikit-learn")
    data_files = (
        DataFile(
            "alpaca_eval/reference_gpt4_1106_preview_model_outputs.json",
            "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20/"
            "results/gpt4_1106_preview/model_outputs.json",
            "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
            "CC-BY-NC-4.0",
        ),
        DataFile(
            "alpaca_eval/df_gamed.csv",
            "https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/main/df_gamed.csv",
            "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
            "CC-BY-NC-4.0",
        ),
    )
    size = BenchmarkSize(questions=805, prompt=60, answer=450, judge_prompt=1250, judge_reply=1)
    testbed_size = BenchmarkSize(questions=400, prompt=25, answer=19)
    further = {"length_controlled_win_rate": "length-controlled win rate %", "average_length": "characters per answer"}
    Options = NoOptions

    def hub_task(self, options: NoOptions) -> HubTask:
        return HubTask("tatsu-lab/alpaca_eval", "alpaca_eval")

    def load(self, data_dir: Path, settings: Settings) -> Questions[AlpacaItem]:
        folder = data_dir / "alpaca_eval"
        references = files.read_rows(files.find(folder, self.name, *REFERENCES), instruction=str, output=str)
        gamed = find_gamed(folder)
        items: list[AlpacaItem] = [
            {
                "id": str(index),
                "instruction": row["instruction"],
                "reference": row["output"],
                "generator": row.get("generator", "reference"),
                "official_index": official_index(row["instruction"]),
            }
            for index, row in enumerate(references)
        ]
        return Questions(items, scoring={GAMED: gamed} if gamed else None)

    def answer(
        self, policy: Policy, items: Questions[AlpacaItem], settings: Settings, advance: Advance | None
    ) -> list[AlpacaSample]:
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
        self,
        items: Sequence[AlpacaItem],
        samples: Sequence[AlpacaSample],
        judge: Judge,
        judging: Judging,
        advance: Advance | None,
    ) -> list[AlpacaJudgment]:
        outputs = {sample["id"]: sample["output"] for sample in samples}
        pairs = [(item["instruction"], item["reference"], outputs[item["id"]]) for item in items]
        orders = [
            _ask(judge, [dict(zip(KEYS, pair, strict=True)) for pair in pairs], judging.rejudge, advance),
        ]
        if judging.both_orders:  # the package's order depends on the instruction: exchanged outputs reverse it
            turned = [dict(zip(KEYS, (pair[0], pair[2], pair[1]), strict=True)) for pair in pairs]
            orders.append([_turned(row) for row in _ask(judge, turned, judging.rejudge, None)])
        rows: list[AlpacaJudgment] = []
        for item, askings in zip(items, zip(*orders, strict=True), strict=True):
            preferences = [row["preference"] for row in askings if row["preference"] is not None]
            replied = next((row for row in askings if not row["error"]), askings[0])
            rows.append(
                {
                    "id": item["id"],
                    "preference": fmean(preferences) if preferences else None,
                    "judge": replied["judge"],
                    "error": replied["error"],
                    "fingerprint": replied["fingerprint"],
                    "date": replied["date"],
                    "askings": [_asking(row) for row in askings],
                }
            )
        return rows

    def verdicts(self, judgment: AlpacaJudgment) -> list[tuple[str, str]] | None:
        if "askings" not in judgment:  # of an older version
            return None
        shown = {True: "shown first", False: "shown second", None: "not shown, the same as the reference"}
        found = []
        for asking in judgment["askings"]:
            preference = asking["preference"]
            verdict = "no verdict" if preference is None else f"this answer preferred, {100 * (preference - 1):.1f} %"
            found.append((f"{verdict} ({shown[asking['policy_first']]})", asking["text"] or ""))
        return found

    def is_open(self, judgment: AlpacaJudgment) -> bool:
        return judgment["preference"] is None

    def score(
        self, items: Questions[AlpacaItem], samples: list[AlpacaSample], judgments: list[AlpacaJudgment]
    ) -> Score:
        by_id = {item["id"]: item for item in items}
        outputs = {sample["id"]: sample["output"] for sample in samples}
        known = [row for row in judgments if row["preference"] is not None]
        details: dict[str, Any] = {"average_length": fmean(len(output) for output in outputs.values())}
        if known:
            comparisons = [
                JudgedPair(
                    by_id[row["id"]].get("official_index"),
                    row["preference"],
                    by_id[row["id"]]["reference"],
                    outputs[row["id"]],
                )
                for row in judgments
            ]
            details = summary(comparisons, items.scoring.get(GAMED))
            del details["missing"], details["unparsed"]  # relative to the official set; the score has those of this run
            if any(len(row.get("askings", ())) == 2 for row in known):
                details["one_order_only"] = sum(map(_in_one_order, known))
        details["controls"] = _controls(items, outputs, judgments)
        details |= forged(outputs.values())
        details |= noted(_of_letters(known) + note_of_form(judgments))
        replied = [row for row in judgments if not row["error"]]
        missing = len(judgments) - len(replied)
        return Score(
            benchmark=self.name,
            metric="win rate %",
            value=details.get("win_rate", float("nan")),
            values={row["id"]: 100 * (row["preference"] - 1) for row in judgments if row["preference"] is not None},
            questions=len(items),
            missing=missing,
            unparsed=len(judgments) - len(known) - missing,
            judge=names_of_judges(row["judge"] for row in replied or judgments),
            details=details,
        )


def _controls(
    items: Sequence[AlpacaItem], outputs: Mapping[str, str], judgments: Sequence[AlpacaJudgment]
) -> dict[str, float]:
    """Return the win rates if the longer output always won, and if the one that was shown first did."""
    lengths = [(len(outputs[item["id"]]), len(item["reference"])) for item in items]
    controls = {"the longest wins": 100 * fmean((own > other) + (own == other) / 2 for own, other in lengths)}
    shown = [asking["policy_first"] for row in judgments for asking in row.get("askings", ())]
    if first := [each for each in shown if each is not None]:
        controls["the first wins"] = 100 * fmean(first)
    return controls


def _ask(judge: Judge, pairs: Sequence[Pair], rejudge: bool, advance: Advance | None) -> list[AlpacaReply]:
    """Return a row per pair: the preference (None without a verdict) and the judge's reply."""
    replies: dict[tuple[str, ...], tuple[JudgeReply, bool]] = {}  # pair -> reply, and whether it was switched

    def ask(prompts: Sequence[Pair], template: Sequence[Message]) -> list[JudgeReply]:
        requests = [
            JudgeRequest(
                str(number),
                tuple({**message, "content": fill(message["content"], pair)} for message in template),
                max_tokens=1,
                temperature=1.0,
                alternatives=LETTERS,
                compared=Comparison(
                    ({"role": "user", "content": pair["instruction"]},), pair["output_1"], pair["output_2"]
                ),
            )
            for number, pair in enumerate(prompts)
        ]
        answers = complete(judge, requests, has_letter, rejudge, advance)
        for prompt, answer in zip(prompts, answers, strict=True):
            first, second = ("output_2", "output_1") if prompt[SWITCHED] else ("output_1", "output_2")
            replies[prompt["instruction"], prompt[first], prompt[second]] = answer, bool(prompt[SWITCHED])
        return answers

    rows: list[AlpacaReply] = []
    for pair, preference in zip(pairs, annotate(pairs, ask), strict=True):
        # equal outputs are a tie, and the judge was not asked
        reply, switched = replies.get(key_of(pair), (None, None))
        rows.append(
            {
                "preference": preference,
                "policy_first": switched,
                "judge": (reply.model or judge.name) if reply else None,
                "error": reply.error if reply else None,
                "fingerprint": reply.fingerprint if reply else None,
                "date": reply.date if reply else None,
                "text": reply.text if reply else None,
                "first_token": reply.first_token if reply else None,
                "finish_reason": reply.finish_reason if reply else None,
                "form": list(reply.form) if reply else [],
            }
        )
    return rows


def _asking(row: AlpacaReply) -> AlpacaAsking:
    """Return what is stored each time a pair was shown."""
    return {
        "preference": row["preference"],
        "policy_first": row["policy_first"],
        "text": row["text"],
        "first_token": row["first_token"],
        "finish_reason": row["finish_reason"],
        "form": row["form"],
        "error": row["error"],
    }


def _turned(row: AlpacaReply) -> AlpacaReply:
    """Turn the row of a pair whose outputs were exchanged into a row of the pair itself."""
    preference, first = row["preference"], row["policy_first"]
    return {
        **row,
        "preference": None if preference is None else 3 - preference,
        "policy_first": None if first is None else not first,
    }


def _in_one_order(row: AlpacaJudgment) -> bool:
    """Whether a pair was shown in both orders, and only one has a verdict."""
    return [asking["preference"] is None for asking in row.get("askings", ())] in ([True, False], [False, True])


def _of_letters(rows: Sequence[AlpacaJudgment]) -> list[str]:
    """Return a remark for the score's note if preferences come from the letter in a judge's text."""
    askings = [asking for row in rows for asking in row.get("askings", ()) if asking["preference"] is not None]
    number = sum(asking["text"] is not None and not asking["first_token"] for asking in askings)
    return [
        f"{number} of {len(askings)} preferences are the letter of the judge's text (alpaca_eval's regex_parser), not "
        "weighted by its log-probabilities, which the endpoint did not give"
    ] * bool(number)
