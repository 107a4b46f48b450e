"""Labels to compare a judge with: the built-in sets of a data folder, and a user's own file.

A set has pairs (a question, two answers, which is better) or ratings (a question, an answer, a rating from 1 to 10).
Rows without a usable label are left out and counted.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import Settings
from harness.benchmarks.mt_bench_judgments import UNPARSED
from harness.errors import UserError, unknown_name
from harness.files import rows
from harness.judges.verdicts import HIGHEST, LOWEST

BETTER = {"A": 1.0, "TIE": 0.5, "B": 0.0}  # the label of a pair, as the preference for answer A
PAIR_COLUMNS = ("question", "answer_a", "answer_b", "label")
RATING_COLUMNS = ("question", "answer", "rating")
OPTIONAL_COLUMNS = ("model", "model_a", "model_b")
AUTO_J = {0: 1.0, 1: 0.0, 2: 0.5}  # its labels: response 1 is better, response 2 is better, or a tie
LLMBAR = {1: 1.0, 2: 0.0}
ATTACKS = ("NullModel",)  # answers that attack AlpacaEval's annotator (Zheng et al. 2024), so its labels are wrong


@dataclass(frozen=True)
class LabelledPair:
    """Two answers to a question. label: 1 where people prefer A, 0 where they prefer B, 0.5 for a tie."""

    id: str
    question: str
    a: str
    b: str
    label: float
    model_a: str | None = None
    model_b: str | None = None

    @property
    def unit(self) -> str:
        return self.id


@dataclass(frozen=True)
class Rated:
    """An answer to a question and its rating (1 to 10). Rows of the same unit are sampled together."""

    id: str
    question: str
    answer: str
    label: float
    model: str | None = None
    unit: str = ""


@dataclass(frozen=True)
class LabelSet:
    """Labels from one source.

    by: who gave the labels. rows: all LabelledPair or all Rated. left_out: reason -> number of rows without a usable
    label. protocol: how a judge is asked: "pairs" or "ratings" (our own prompts), or the name of a benchmark.
    context: what the benchmark's protocol needs.
    """

    name: str
    by: str
    protocol: str
    rows: Sequence[LabelledPair] | Sequence[Rated]
    left_out: dict[str, int] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def has_pairs(self) -> bool:
        return isinstance(self.rows[0], LabelledPair)


def sample(labels: LabelSet, limit: int, seed: int) -> Sequence[LabelledPair | Rated]:
    """Draw at most `limit` units of a set at random without replacement; they keep the set's order.

    A larger sample includes a smaller one, so that what was judged for the smaller one is not asked again.
    """
    units = list(dict.fromkeys(row.unit for row in labels.rows))
    random.Random(f"{seed}/{labels.name}").shuffle(units)
    chosen = set(units[:limit])
    return [row for row in labels.rows if row.unit in chosen]


def load_sets(data_dir: Path, names: Sequence[str]) -> tuple[list[LabelSet], list[str]]:
    """Return the built-in sets of a data folder, and a text for each missing one.

    Args:
        names: sets that must be there; empty means all that are.

    Raises:
        UserError: for an unknown name, a named set that is missing, a malformed row, or no set at all.
    """
    if unknown := [name for name in names if name not in BUILT_IN]:
        raise unknown_name("label set", unknown[0], BUILT_IN)
    found, absent = [], []
    for name in names or BUILT_IN:
        if paths := [path for pattern in PLACES[name] for path in _matching(data_dir, pattern)]:
            found.append(BUILT_IN[name](name, data_dir, paths))
        else:
            absent.append(f"{name}: no {' or '.join(PLACES[name])} in {data_dir}")
    if names and absent:
        raise UserError(f"label set {absent[0]}: fetch its files, or remove it from --label-sets")
    if not found:
        raise UserError(f"no label set in {data_dir} ({'; '.join(absent)}): give --data-dir, or --labels FILE")
    return found, absent


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return plain files, and .gz files that have no plain version."""
    plain = sorted(folder.glob(pattern))
    return plain + [path for path in sorted(folder.glob(f"{pattern}.gz")) if path.with_suffix("") not in plain]


def _llmbar(name: str, data_dir: Path, paths: Sequence[Path]) -> LabelSet:
    """Read LLMBar (Zeng et al. 2024): pairs that people agree on; only one output follows the instruction."""
    pairs = []
    for path in paths:
        located = files.read_located_rows(path, input=str, output_1=str, output_2=str, label=int)
        for number, (where, row) in enumerate(located):
            label = _looked_up(LLMBAR, row["label"], "label", where)
            pairs.append(LabelledPair(f"{path.name}/{number}", row["input"], row["output_1"], row["output_2"], label))
    return _of_pairs(name, "people", "pairs", pairs)


def _auto_j(name: str, data_dir: Path, paths: Sequence[Path]) -> LabelSet:
    """Read the test pairs of auto-j (Li et al. 2023), labelled by people, including ties."""
    fields = {"prompt": str, "response 1": str, "response 2": str, "label": int}
    pairs = [
        LabelledPair(
            str(number),
            row["prompt"],
            row["response 1"],
            row["response 2"],
            _looked_up(AUTO_J, row["label"], "label", where),
        )
        for number, (where, row) in enumerate(files.checked_rows(paths[0], fields))
    ]
    return _of_pairs(name, "people", "pairs", pairs)


def _alpaca_eval(name: str, data_dir: Path, paths: Sequence[Path]) -> LabelSet:
    """Read AlpacaEval's published annotations: A is the reference, B the model's output; above 1.5 prefers B."""
    pairs, unlabelled, attacks = [], 0, 0
    for path in paths:
        model = path.name.removesuffix(".gz").removesuffix(".json")
        located = files.read_located_rows(path, True, instruction=str, output_1=str, output_2=str)
        if model in ATTACKS:
            attacks += len(located)
            continue
        for number, (where, row) in enumerate(located):
            preference = row.get("preference")
            if preference is None or preference != preference:
                unlabelled += 1
                continue
            if type(preference) not in (int, float) or not 1 <= preference <= 2:
                raise UserError(f"{where}: field 'preference' must be a number from 1 to 2, not {preference!r:.60}")
            label = 0.5 if preference == 1.5 else float(preference < 1.5)
            named = (row.get("generator_1"), row.get("generator_2"))
            names = [generator if isinstance(generator, str) else None for generator in named]
            texts = (row["instruction"], row["output_1"], row["output_2"])
            pairs.append(LabelledPair(f"{model}/{number}", *texts, label, *names))
    left_out = {"without a label": unlabelled, "answers that attack the annotator": attacks}
    return _of_pairs(name, "GPT-4 Turbo", "alpaca-eval", pairs, left_out)


def _of_pairs(
    name: str, by: str, protocol: str, pairs: Iterable[LabelledPair], left_out: dict[str, int] | None = None
) -> LabelSet:
    pairs = list(pairs)
    different = [pair for pair in pairs if pair.a != pair.b]
    left_out = (left_out or {}) | {"the same answer twice": len(pairs) - len(different)}
    if not different:
        raise UserError(f"label set {name}: no pair of different answers with a label")
    return LabelSet(name, by, protocol, different, {reason: n for reason, n in left_out.items() if n})


def _mt_bench(name: str, data_dir: Path, paths: Sequence[Path]) -> LabelSet:
    """Read GPT-4's ratings of MT-Bench answers; several ratings of one answer are averaged, as in FastChat."""
    from harness.benchmarks.mt_bench import MTBench

    items = {item["id"]: item for item in MTBench().load(data_dir, Settings())}
    answers = _mt_bench_answers(data_dir, items)
    ratings: dict[tuple[str, str, int], list[float]] = {}
    unlabelled = unanswered = 0
    for path in paths:
        for where, row in files.read_located_rows(path, True, question_id=int, model=str, turn=int):
            score, key = row.get("score"), (row["model"], str(row["question_id"]), row["turn"])
            if score is None or score == UNPARSED:
                unlabelled += 1
            elif type(score) not in (int, float) or not 0 <= score <= HIGHEST:
                raise UserError(f"{where}: field 'score' must be a number from 0 to {HIGHEST}, not {score!r:.60}")
            elif key[:2] not in answers or row["turn"] not in (1, 2):
                unanswered += 1
            else:
                ratings.setdefault(key, []).append(score)
    rated = [
        Rated(
            f"{model}/{question}/{turn}",
            items[question]["turns"][0],
            answers[model, question][turn - 1],
            fmean(scores),
            model,
            f"{model}/{question}",
        )
        for (model, question, turn), scores in ratings.items()
    ]
    if not rated:
        raise UserError(f"label set {name}: no judgment in {data_dir}/mt_bench/model_judgment has an answer there")
    left_out = {"without a label": unlabelled, "without a stored answer": unanswered}
    return LabelSet(
        name,
        "GPT-4",
        "mt-bench",
        rated,
        {reason: n for reason, n in left_out.items() if n},
        {"items": items} | {"answers": answers},
    )


def _mt_bench_answers(data_dir: Path, items: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """Return (model, question id) -> the answers of both turns, from FastChat's answer files."""
    answers = {}
    for path in _matching(data_dir, "mt_bench/model_answer*/*.jsonl"):
        for where, row in files.read_located_rows(path, True, question_id=int, choices=list):
            match row["choices"]:
                case [{"turns": [str(first), str(second)]}, *_]:
                    pass
                case _:
                    raise UserError(f"{where}: field 'choices' must hold an object with two turns, both texts")
            if str(row["question_id"]) in items:
                model = path.name.removesuffix(".gz").removesuffix(".jsonl")
                answers[model, str(row["question_id"])] = [first, second]
    return answers


def _looked_up(known: dict, value: Any, what: str, where: str) -> float:
    if value not in known:
        raise UserError(f"{where}: field {what!r} must be one of {', '.join(map(str, known))}, not {value!r:.60}")
    return known[value]


PLACES = {
    "llmbar": ("rewardbench/llmbar/Natural.json",),
    "llmbar-adversarial": ("rewardbench/llmbar/Adversarial_*.json",),
    "auto-j": ("prompts/autoj_testdata_pairwise.jsonl",),
    "alpaca-eval": ("alpaca_eval/annotations/*.json",),
    "mt-bench": ("mt_bench/model_judgment/*.jsonl",),
}
BUILT_IN: dict[str, Callable[[str, Path, Sequence[Path]], LabelSet]] = {
    "llmbar": _llmbar,
    "llmbar-adversarial": _llmbar,
    "auto-j": _auto_j,
    "alpaca-eval": _alpaca_eval,
    "mt-bench": _mt_bench,
}


def read_labels(path: Path) -> LabelSet:
    """Read a user's own labels, in any format of `harness.files.rows`.

    Pairs have the columns question, answer_a, answer_b and label (A, B or tie), and may have model_a and model_b;
    ratings have question, answer and rating (1 to 10), and may have model. Other columns are ignored.

    Raises:
        UserError: for a malformed row, naming file, line and field.
    """
    located = list(rows.located(path, (*PAIR_COLUMNS, *RATING_COLUMNS, *OPTIONAL_COLUMNS)))
    if not located:
        raise UserError(f"{path}: holds no rows")
    where, first = located[0]
    columns = first.keys() if isinstance(first, dict) else ()
    fitting = [kind for kind in (PAIR_COLUMNS, RATING_COLUMNS) if set(kind) <= set(columns)]
    if len(fitting) != 1:
        raise UserError(
            f"{where}: give pairs with the columns {', '.join(PAIR_COLUMNS)}, or ratings with the columns "
            f"{', '.join(RATING_COLUMNS)}"
        )
    if fitting[0] is RATING_COLUMNS:
        rated = [_rated(where, row, number) for number, (where, row) in enumerate(located)]
        return LabelSet(path.name, "the file", "ratings", rated)
    pairs = [_pair(where, row, number) for number, (where, row) in enumerate(located)]
    return _of_pairs(path.name, "the file", "pairs", pairs)


def _pair(where: str, row: Any, number: int) -> LabelledPair:
    question, a, b, label = (_text(where, row, name) for name in PAIR_COLUMNS)
    if label.strip().upper() not in BETTER:
        raise UserError(f"{where}: field 'label' must be A, B or tie, not {label!r:.60}")
    preference = BETTER[label.strip().upper()]
    if a == b and preference != 0.5:
        raise UserError(f"{where}: field 'label' prefers {label.strip()}, but answer_a and answer_b are the same text")
    return LabelledPair(
        str(number), question, a, b, preference, _name(where, row, "model_a"), _name(where, row, "model_b")
    )


def _rated(where: str, row: Any, number: int) -> Rated:
    question, answer = (_text(where, row, name) for name in RATING_COLUMNS[:2])
    given = row.get("rating")
    try:
        rating = float(given) if type(given) in (int, float, str) else float("nan")
    except ValueError:
        rating = float("nan")
    if not (isfinite(rating) and LOWEST <= rating <= HIGHEST):
        raise UserError(f"{where}: field 'rating' must be a number from {LOWEST} to {HIGHEST}, not {given!r:.60}")
    return Rated(str(number), question, answer, rating, _name(where, row, "model"), str(number))


def _text(where: str, row: Any, name: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object")
    text = row.get(name)
    if not isinstance(text, str) or (name in ("question", "label") and not text.strip()):
        raise UserError(f"{where}: field {name!r} must be a text, not {text!r:.60}")
    if rows.holds_half_character(text):
        raise UserError(f"{where}: field {name!r} is not Unicode text (it holds half a character)")
    return text


def _name(where: str, row: dict, name: str) -> str | None:
    """Return a model's name, None if there is none."""
    return _text(where, row, name).strip() or None if row.get(name) is not None else None
