"""AlpacaEval 2.0 (Dubois et al. 2024): instructions answered, each compared with a reference output by a judge.

The prompt template, the seeded order of a pair, the reading of log-probabilities and both win rates are those of the
package alpaca-eval; only the completions come from our judge.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from harness.benchmarks import files
from harness.benchmarks.alpaca_annotations import summary
from harness.benchmarks.alpaca_annotator import LETTERS, SWITCHED, Pair, _key, _preference, annotate
from harness.benchmarks.alpaca_win_rates import KEYS, JudgedPair, find_gamed, official_index
from harness.benchmarks.base import Judging, NoOptions, Policy, Questions, Score, Settings
from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.engines.base import Sampling
from harness.judges.base import Judge, complete
from harness.judges.shares import note_of_form, noted
from harness.judges.templates import fill
from harness.judges.verdicts import forged, names_of_judges
from harness.progress import Advance
from harness.types import Message

MAX_NEW_TOKENS = 2048
GAMED = "df_gamed"  # the file that the length-controlled win rate needs
# what is stored of each time a pair was shown
ASKING = ("preference", "policy_first", "text", "first_token", "finish_reason", "form", "error")
REFERENCES = ("reference.json", "reference_gpt4_1106_preview_model_outputs.json")


class AlpacaEval:
    """AlpacaEval 2.0 as a benchmark: raw and length-controlled win rates."""

    name = "alpaca-eval"
    title = "AlpacaEval 2.0"
    needs_judge = True
    needs_pairs = False
    needs_logprobs = False
    turns = 1
    Options = NoOptions

    def load(self, data_dir: Path, settings: Settings) -> Questions:
        folder = data_dir / "alpaca_eval"
        references = files.read_rows(files.find(folder, self.name, *REFERENCES), instruction=str, output=str)
        gamed = find_gamed(folder)
        items = [
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

    def answer(self, policy: Policy, items: Questions, settings: Settings, advance: Advance | None) -> list[dict]:
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
        self, items: Questions, samples: list[dict], judge: Judge, judging: Judging, advance: Advance | None
    ) -> list[dict]:
        outputs = {sample["id"]: sample["output"] for sample in samples}
        pairs = [(item["instruction"], item["reference"], outputs[item["id"]]) for item in items]
        orders = [
            _ask(judge, [dict(zip(KEYS, pair, strict=True)) for pair in pairs], judging.rejudge, advance),
        ]
        if judging.both_orders:  # the package's order is a function of the instruction: exchanged outputs reverse it
            turned = [dict(zip(KEYS, (pair[0], pair[2], pair[1]), strict=True)) for pair in pairs]
            orders.append([_turned(row) for row in _ask(judge, turned, judging.rejudge, None)])
        rows = []
        for item, askings in zip(items, zip(*orders, strict=True), strict=True):
            preferences = [row["preference"] for row in askings if row["preference"] is not None]
            replied = next((row for row in askings if not row["error"]), askings[0])
            rows.append(
                {
                    "id": item["id"],
                    "preference": fmean(preferences) if preferences else None,
                    **{name: replied[name] for name in ("judge", "error", "fingerprint", "date")},
                    "askings": [{name: row[name] for name in ASKING} for row in askings],
                }
            )
        return rows

    def score(self, items: Questions, samples: list[dict], judgments: list[dict]) -> Score:
        by_id = {item["id"]: item for item in items}
        outputs = {sample["id"]: sample["output"] for sample in samples}
        known = [row for row in judgments if row["preference"] is not None]
        details = {"average_length": fmean(len(output) for output in outputs.values())}
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
            del details["missing"], details["unparsed"]  # of the official set; the score's own are of this run
            if any(len(row.get("askings", ())) == 2 for row in known):
                details["one_order_only"] = sum(map(_in_one_order, known))
        details |= forged(outputs.values())
        details |= noted(_of_letters(known) + note_of_form(judgments))
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


def _ask(judge: Judge, pairs: Sequence[Pair], rejudge: bool, advance: Advance | None) -> list[dict]:
    """A row for each pair: the preference (None without a verdict) and what the judge replied."""
    replies: dict[tuple, tuple[JudgeReply, bool]] = {}  # of a pair: what was replied, and whether it was turned

    def ask(prompts: Sequence[Pair], template: Sequence[Message]) -> list[JudgeReply]:
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
        answers = complete(judge, requests, _has_letter, rejudge, advance)
        for prompt, answer in zip(prompts, answers, strict=True):
            first, second = ("output_2", "output_1") if prompt[SWITCHED] else ("output_1", "output_2")
            replies[prompt["instruction"], prompt[first], prompt[second]] = answer, bool(prompt[SWITCHED])
        return answers

    rows = []
    for pair, preference in zip(pairs, annotate(pairs, ask), strict=True):
        # none was asked for where both outputs are the same: a tie
        reply, switched = replies.get(_key(pair), (None, None))
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


def _turned(row: dict) -> dict:
    """A row of a pair whose outputs were exchanged, as one of the pair itself."""
    preference, first = row["preference"], row["policy_first"]
    return row | {
        "preference": None if preference is None else 3 - preference,
        "policy_first": None if first is None else not first,
    }


def _in_one_order(row: dict) -> bool:
    """Whether a pair was shown in both orders, and only one has a verdict."""
    return [asking["preference"] is None for asking in row.get("askings", ())] in ([True, False], [False, True])


def _has_letter(reply: JudgeReply) -> bool:
    return _preference(reply, lambda _completion: [1.0])[0] is not None


def _of_letters(rows: Sequence[dict]) -> list[str]:
    """What is to be said where preferences are of the letter in a judge's text."""
    askings = [asking for row in rows for asking in row.get("askings", ()) if asking["preference"] is not None]
    number = sum(asking["text"] is not None and not asking["first_token"] for asking in askings)
    return [
        f"{number} of {len(askings)} preferences are the letter of the judge's text (alpaca_eval's regex_parser), not "
        "weighted by its log-probabilities, which the endpoint did not give"
    ] * bool(number)
