"""Arena-Hard (Li et al. 2024, lmarena/arena-hard-auto): a judge compares answers with a baseline's, in both orders.

Questions (v0.1 and v2), the judge's prompts and the baseline's answers are read in their published formats. A verdict
"significantly better" counts three times; the Bradley-Terry model of one model against its baseline gives the win rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.arena_hard_rates import GAMES, Battle, style_controlled, win_rate
from harness.benchmarks.base import BenchmarkSize, Judging, Policy, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.rows import ArenaAsking, ArenaItem, ArenaJudgment, ArenaSample, JudgePrompt
from harness.endpoints.base import Comparison, JudgeReply, JudgeRequest
from harness.engines.base import Engine, Sampling
from harness.errors import UserError
from harness.files import plain_yaml
from harness.files.data_files import DataFile
from harness.files.rows import read_text
from harness.judges.base import Judge, complete
from harness.judges.shares import note_of_form, noted
from harness.judges.templates import fill
from harness.judges.verdicts import arena_verdict_of, forged, has_arena_verdict, names_of_judges
from harness.progress import Advance

MAX_NEW_TOKENS = 4096
JUDGE_TOKENS = 4096
FOLDER = "arena_hard"
CONFIG = "judge_config.yaml"  # config/judge_config.yaml of the repository, with the prompts of v0.1 and v2
CREATIVE = "creative_writing"  # of v2: its judge is not asked to answer first
CREATIVE_CONFIG = "judge_config_creative_writing.yaml"
BASE = "base"
VERDICTS = ("[[A>B]]", "[[B>A]]", "[[A=B]]")  # of a judge that does not say by how much
# names of the places of a template, in v0.1's and in v2's
PLACES = (("question_1", "answer_1", "answer_2"), ("QUESTION", "ANSWER_A", "ANSWER_B"))


@dataclass(frozen=True)
class ArenaHardOptions:
    """category: ask only questions of this category, such as hard_prompt of v2.

    baseline: a file of answers in the published format, or "base" for answers of the untrained model. Default: the file
    in arena_hard/model_answer/, and without one "base".
    """

    category: str | None = None
    baseline: str | None = None


class ArenaHard(BenchmarkDefaults):
    """Arena-Hard as a benchmark: the win rate against the baseline, with and without control of style."""

    name = "arena-hard"
    title = "Arena-Hard"
    needs_judge = True
    compares = True
    turns = 1
    sections = "category"
    data_files = (
        DataFile(
            "arena_hard/question.jsonl",
            "https://raw.githubusercontent.com/lmarena/arena-hard-auto/196f6b826783b3da7310e361a805fa36f0be83f3/"
            "data/arena-hard-v0.1/question.jsonl",
            "2650242d2883f22b2abd498f273b6a7e02253cce533f5c91a858e1d44aa3002f",
            "Apache-2.0",
        ),
    )
    size = BenchmarkSize(questions=500, prompt=130, answer=700, judge_prompt=3600, judge_reply=1200)  # both orders
    further = {"average_length": "characters per answer"}
    parts = {"categories": "by category"}
    Options = ArenaHardOptions

    def load(self, data_dir: Path, settings: Settings) -> list[ArenaItem]:
        options = settings.options or ArenaHardOptions()
        folder = data_dir / FOLDER
        file = files.find(folder, self.name, "question.jsonl", "arena_hard_v0.1_question.jsonl")
        asked = [_question(where, row) for where, row in files.read_located_rows(file)]
        if options.category is not None:
            known = sorted({category for _, category, _ in asked})
            asked = [row for row in asked if row[1] == options.category]
            if not asked:
                raise UserError(f"{file}: no question of category {options.category!r}; known: {', '.join(known)}")
        prompt = _prompt(folder, CONFIG)
        creative = _prompt(folder, CREATIVE_CONFIG) if any(category == CREATIVE for _, category, _ in asked) else prompt
        path = _baseline_file(folder, options.baseline)
        name, answers = _answers(path) if path else (BASE, {})
        if path and (without := [identifier for identifier, *_ in asked if identifier not in answers]):
            raise UserError(
                f"{path}: no answer of the baseline to {len(without)} of {len(asked)} questions, such as {without[0]}: "
                f"complete it, or ask one category with --set {self.name}.category=NAME"
            )
        return [
            {
                "id": identifier,
                "category": category,
                "prompt": text,
                "baseline": name,
                "reference": answers.get(identifier),
                "judge_prompt": creative if category == CREATIVE else prompt,
            }
            for identifier, category, text in asked
        ]

    def answer(
        self, policy: Policy, items: list[ArenaItem], settings: Settings, advance: Advance | None
    ) -> list[ArenaSample]:
        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        answered = self._generate(policy.engine, items, sampling, advance)
        lacking = [item for item in items if item["reference"] is None]
        references = {item["id"]: item["reference"] or "" for item in items}
        if lacking:  # the untrained model is its own baseline
            of_base = self._generate(policy.reference, lacking, sampling, None) if policy.reference else answered
            references |= {identifier: sample["output"] for identifier, sample in of_base.items()}
        return [{**answered[item["id"]], "reference": references[item["id"]]} for item in items]

    def _generate(
        self, engine: Engine, items: Sequence[ArenaItem], sampling: Sampling, advance: Advance | None
    ) -> dict[str, ArenaSample]:
        completions = engine.generate(
            [engine.encode_chat([{"role": "user", "content": item["prompt"]}]) for item in items],
            [f"{self.name}/{item['id']}" for item in items],
            sampling,
            advance,
        )
        return {
            item["id"]: {
                "id": item["id"],
                "output": completion.text,
                "reference": "",
                "finished": completion.finished,
                "tokens": len(completion.token_ids),
            }
            for item, completion in zip(items, completions, strict=True)
        }

    def judge(
        self,
        items: list[ArenaItem],
        samples: list[ArenaSample],
        judge: Judge,
        judging: Judging,
        advance: Advance | None,
    ) -> list[ArenaJudgment]:
        by_id = {sample["id"]: sample for sample in samples}
        different = [item for item in items if by_id[item["id"]]["output"] != by_id[item["id"]]["reference"]]
        if advance:
            advance(len(items) - len(different))
        askings: dict[str, list[ArenaAsking]] = {item["id"]: [] for item in items}
        made: dict[str, JudgeReply] = {}
        for first in (False, True):  # game 1 shows the baseline first, game 2 the model
            requests = [_ask(item, by_id[item["id"]], first) for item in different]
            replies = complete(judge, requests, has_arena_verdict, judging.rejudge, advance if first else None)
            for item, reply in zip(different, replies, strict=True):
                askings[item["id"]].append(
                    {
                        "preference": arena_verdict_of(reply),
                        "policy_first": first,
                        "text": reply.text,
                        "finish_reason": reply.finish_reason,
                        "form": list(reply.form),
                        "error": reply.error,
                    }
                )
                if item["id"] not in made or made[item["id"]].error:
                    made[item["id"]] = reply
        return [_judgment(item["id"], askings[item["id"]], made.get(item["id"]), judge.name) for item in items]

    def verdicts(self, judgment: ArenaJudgment) -> list[tuple[str, str]]:
        shown = {True: "this answer is A", False: "the baseline is A"}
        return [
            (f"{asking['preference'] or 'no verdict'} ({shown[asking['policy_first']]})", asking["text"])
            for asking in judgment["askings"]
        ]

    def is_open(self, judgment: ArenaJudgment) -> bool:
        return not judgment["scores"]

    def score(self, items: list[ArenaItem], samples: list[ArenaSample], judgments: list[ArenaJudgment]) -> Score:
        by_id = {sample["id"]: sample for sample in samples}
        battles = [
            Battle(row["id"], row["scores"], by_id[row["id"]]["output"], by_id[row["id"]]["reference"])
            for row in judgments
            if row["scores"]
        ]
        category = {item["id"]: item["category"] for item in items}
        asked = [row for row in judgments if row["askings"]]
        missing = sum(any(asking["error"] for asking in row["askings"]) for row in asked)
        lengths = [(len(sample["output"]), len(sample["reference"])) for sample in samples]
        details: dict[str, Any] = {
            "baseline": items[0]["baseline"],
            "average_length": fmean(own for own, _ in lengths),
            "same_as_baseline": len(judgments) - len(asked),
            **(win_rate(battles) if battles else {}),
            "style_controlled": style_controlled(battles),
            "categories": {
                name: win_rate([each for each in battles if category[each.id] == name])["win_rate"]
                for name in sorted({category[each.id] for each in battles})
            },
            "controls": {
                "the longest wins": 100 * fmean((own > other) + (own == other) / 2 for own, other in lengths),
                "the first wins": 50.0,  # each pair is shown in both orders
            },
        }
        details |= forged(sample["output"] for sample in samples)
        details |= noted(note_of_form(judgments))
        return Score(
            benchmark=self.name,
            metric="win rate %",
            value=details.get("win_rate", float("nan")),
            values={each.id: 100 * fmean(each.scores) for each in battles},
            weights={each.id: float(len(each.scores)) for each in battles},
            questions=len(items),
            missing=missing,
            unparsed=len(judgments) - len(battles) - missing,
            judge=names_of_judges(row["judge"] for row in asked if not row["error"])
            or names_of_judges(row["judge"] for row in judgments),
            details=details,
        )


def _question(where: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return id, category and text: of v2 and the newer v0.1 (uid, prompt), or the older v0.1 (question_id, turns)."""
    match row:
        case {"uid": str(identifier), "prompt": str(text)}:
            pass
        case {"question_id": str(identifier), "turns": [{"content": str(text)}]}:
            pass
        case _:
            raise UserError(f"{where}: must have uid and prompt, or question_id and one turn with its content")
    return identifier, str(row.get("category", "arena-hard-v0.1")), text


def _prompt(folder: Path, name: str) -> JudgePrompt:
    """Return a judge prompt of a published configuration; its template is a text, or a list with one."""
    path = folder / name
    if not path.exists():
        raise UserError(
            f"no {path}: put config/judge_config.yaml of lmarena/arena-hard-auto there"
            + (", with CREATIVE_WRITING_PROMPT of its utils as system_prompt" if name == CREATIVE_CONFIG else "")
        )
    match plain_yaml.parse(read_text(path), str(path)):
        case {"system_prompt": str(system), "prompt_template": str(template)}:
            pass
        case {"system_prompt": str(system), "prompt_template": [str(template)]}:
            pass
        case _:
            raise UserError(f"{path}: must have system_prompt and prompt_template, both texts")
    for places in PLACES:
        if all(f"{{{place}}}" in template for place in places):
            return {"system": system, "template": template}
    raise UserError(
        f"{path}: prompt_template must have {' or '.join(', '.join(places) for places in PLACES)} in braces"
    )


def _baseline_file(folder: Path, given: str | None) -> Path | None:
    if given is not None:
        return None if given == BASE else Path(given)
    found = sorted((folder / "model_answer").glob("*.jsonl*"))
    if len(found) > 1:
        raise UserError(
            f"{folder / 'model_answer'}: holds answers of {len(found)} models: choose the baseline with "
            f"--set arena-hard.baseline={found[0]}"
        )
    return found[0] if found else None


def _answers(path: Path) -> tuple[str, dict[str, str]]:
    """Return the model's name and its answers by question, from a published file of answers."""
    answers, name = {}, path.name.partition(".jsonl")[0]
    for where, row in files.read_located_rows(path, written_by_models=True):
        match row:
            case {"uid": str(identifier), "messages": [*_, {"content": {"answer": str(text)}}]}:
                pass
            case {"uid": str(identifier), "messages": [*_, {"content": str(text)}]}:
                pass
            case {"question_id": str(identifier), "choices": [{"turns": [{"content": str(text)}]}]}:
                pass
            case _:
                raise UserError(f"{where}: must have uid and messages, or question_id and choices with one turn")
        answers[identifier] = text
        name = str(row.get("model") or row.get("model_id") or name)
    return name, answers


def _ask(item: ArenaItem, sample: ArenaSample, policy_first: bool) -> JudgeRequest:
    prompt = item["judge_prompt"]
    shown = (sample["output"], sample["reference"]) if policy_first else (sample["reference"], sample["output"])
    values = {place: text for places in PLACES for place, text in zip(places, (item["prompt"], *shown), strict=True)}
    return JudgeRequest(
        f"{item['id']}/{'model' if policy_first else 'baseline'}-first",
        (
            {"role": "system", "content": prompt["system"]},
            {"role": "user", "content": fill(prompt["template"], values)},
        ),
        max_tokens=JUDGE_TOKENS,
        compared=Comparison(({"role": "user", "content": item["prompt"]},), *shown, VERDICTS),
    )


def _judgment(identifier: str, askings: list[ArenaAsking], reply: JudgeReply | None, judge: str) -> ArenaJudgment:
    """Return the row of a question. Without both verdicts it has no scores, as published; equal answers are a tie."""
    verdicts = [asking["preference"] for asking in askings]
    known = [verdict for verdict in verdicts if verdict is not None]
    scores: list[float] = [] if askings else [0.5, 0.5]
    if askings and len(known) == len(askings):
        scores = [score for asking, verdict in zip(askings, known, strict=True) for score in _scores(asking, verdict)]
    return {
        "id": identifier,
        "scores": scores,
        "judge": (reply.model or judge) if reply else None,
        "error": reply.error if reply else None,
        "fingerprint": reply.fingerprint if reply else None,
        "date": reply.date if reply else None,
        "askings": askings,
    }


def _scores(asking: ArenaAsking, verdict: str) -> list[float]:
    """Return the outcomes for the model that one verdict stands for."""
    outcome, times = GAMES[verdict]
    return [outcome if asking["policy_first"] else 1 - outcome] * times
