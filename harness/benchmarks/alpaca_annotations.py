"""Existing AlpacaEval annotations in the package's format: the win rates of one model."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.benchmarks import files
from harness.benchmarks.alpaca_win_rates import (
    ALL,
    KEYS,
    RESAMPLES,
    JudgedPair,
    length_controlled,
    official_index,
    win_rates,
)
from harness.endpoints.base import JudgeReply
from harness.errors import UserError
from harness.thoughts import MARKS, Marks, counted, split_thought
from harness.types import Message

if TYPE_CHECKING:
    from harness.benchmarks.alpaca_annotator import Pair

SAME = ("generator_2", "annotator", "generator_1")  # fields that all rows of a file share
PRICES = ("price_per_example", "time_per_example")
CLOSE = 1e-3  # stored log-probabilities are rounded


def score_annotations(
    path: Path,
    *,
    df_gamed: Path | None = None,
    from_logprobs: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    marks: Marks = MARKS,
) -> dict[str, Any]:
    """Compute the win rates of the model whose annotations a file holds (a JSON list or JSONL, plain or .gz).

    Args:
        df_gamed: the package's df_gamed.csv, for the length-controlled win rate.
        from_logprobs: recompute each preference from the stored completion's log-probabilities, in the order of the
            pair that the package's seed gives; a row without them has none.
        seed, resamples: of the bootstrap.
        marks: of thoughts, which are removed from the model's outputs before their length is measured.

    Returns:
        `summary`, and model, reference, annotator, duplicates (further rows of an instruction: the first with a
        preference counts); with from_logprobs also without_logprobs (rows) and differing (rows whose recorded
        preference differs).

    Raises:
        UserError: for a malformed row, several models, references or annotators in one file, or a file without any
            preference.
    """
    located = files.checked_rows(
        path,
        dict.fromkeys(KEYS, str),
        written_by_models=True,
        nan_is_absent=("preference", *PRICES, "raw_completion"),
    )
    shared = {name: _the_same(path, name, [row for _, row in located]) for name in SAME}
    chosen: dict[str, tuple[dict[str, Any], Any]] = {}
    read = _first_tokens if from_logprobs else _recorded
    readings = [read(where, row) for where, row in located]
    for (where, row), reading in zip(located, readings, strict=True):
        _check_texts(where, row)
        if chosen.setdefault(row["instruction"], (row, reading))[1] is None:
            chosen[row["instruction"]] = row, reading
    rows = [row for row, _ in chosen.values()]
    kept = [reading for _, reading in chosen.values()]  # preferences, or log-probabilities that give them
    preferences: list[float | None] = _recomputed(rows, kept) if from_logprobs else kept
    splits = [split_thought(row["output_2"], marks) for row in rows]
    comparisons = [
        JudgedPair(official_index(row["instruction"]), preference, row["output_1"], split.answer)
        for row, preference, split in zip(rows, preferences, splits, strict=True)
    ]
    if not any(pair.preference is not None for pair in comparisons):
        raise UserError(f"{path}: no row has a preference")
    result = summary(comparisons, df_gamed, seed, resamples) | {
        "model": shared["generator_2"],
        "reference": shared["generator_1"],
        "annotator": shared["annotator"],
        "duplicates": len(located) - len(rows),
        **counted(splits),
    }
    if from_logprobs:
        unread = zip(kept, preferences, strict=True)
        result["without_logprobs"] = sum(letters is None and preference is None for letters, preference in unread)
        result["differing"] = sum(map(_differs, rows, preferences))
    return result


def summary(
    comparisons: Sequence[JudgedPair], df_gamed: Path | None, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Compute the numbers of one model, for files and live runs alike.

    Returns:
        win_rate, standard_error, length_controlled_win_rate (percent; None with length_controlled_reason if it cannot
        be computed), length_controlled_interval (95 %; None if the rate is), interval (that one, or the raw win rate's
        if it is None; interval_of says which), win_rate_interval, average_length (characters), n (preferences), missing
        (of the 805 instructions, those without a preference), unparsed (rows without a preference).
    """
    known = [pair.preference for pair in comparisons if pair.preference is not None]
    raw = win_rates(known, seed, resamples)
    controlled = length_controlled(comparisons, df_gamed, seed, resamples)
    answered = {pair.index for pair in comparisons if pair.preference is not None} - {None}
    return {
        "win_rate": raw["win_rate"],
        "standard_error": raw["standard_error"],
        "length_controlled_win_rate": controlled.value,
        "length_controlled_interval": list(controlled.interval) if controlled.interval else None,
        "interval": list(controlled.interval or raw["win_rate_interval"]),
        "interval_of": "win_rate" if controlled.value is None else "length_controlled_win_rate",
        "length_controlled_reason": controlled.reason,
        "win_rate_interval": list(raw["win_rate_interval"]),
        "average_length": fmean(len(pair.output) for pair in comparisons),
        "n": len(known),
        "missing": ALL - len(answered),
        "unparsed": len(comparisons) - len(known),
    }


def _the_same(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> str | None:
    values = sorted({str(row[name]) for row in rows if row.get(name) is not None})
    if len(values) > 1:
        raise UserError(f"{path}: rows of several {name}s ({', '.join(values[:5])}): give one file for each")
    return values[0] if values else None


def _check_texts(where: str, row: dict[str, Any]) -> None:
    for name in KEYS:
        try:
            row[name].encode()
        except UnicodeEncodeError:  # JSON can hold half of a surrogate pair; the package's tables cannot
            raise UserError(f"{where}: field {name!r} is not Unicode text") from None


def _recorded(where: str, row: dict[str, Any]) -> float | None:
    if "preference" not in row:
        raise UserError(f"{where}: field 'preference' is missing (or use --from-logprobs)")
    return read_preference(where, row["preference"])


def read_preference(where: str, value: Any) -> float | None:
    """Return a stored preference (1 to 2, 0 for a tie, or null) as 1 to 2 or None.

    Raises:
        UserError: for anything else.
    """
    if value is None or value != value:
        return None
    if type(value) in (int, float) and (value == 0 or 1 <= value <= 2):
        return float(value) or 1.5
    raise UserError(f"{where}: preference must be from 1 to 2, 0 for a tie, or null, not {value!r:.60}")


def _differs(row: dict[str, Any], preference: float | None) -> bool:
    """Whether a row records another preference than the recomputed one."""
    recorded: Any = row.get("preference")
    if preference is None or type(recorded) not in (int, float) or recorded != recorded:
        return False
    return abs((recorded or 1.5) - preference) > CLOSE


def _recomputed(rows: Sequence[dict[str, Any]], letters: Sequence[dict[str, float] | None]) -> list[float | None]:
    """Compute preferences from stored log-probabilities, with the package's order of each pair and its reading."""
    from harness.benchmarks.alpaca_annotator import annotate

    first = {row["instruction"]: chances for row, chances in zip(rows, letters, strict=True)}

    def replies(prompts: "Sequence[Pair]", _template: Sequence[Message]) -> list[JudgeReply]:
        return [JudgeReply("", "", first_token=first[prompt["instruction"]]) for prompt in prompts]

    return annotate([{name: row[name] for name in KEYS} for row in rows], replies)


def _first_tokens(_where: str, row: dict[str, Any]) -> dict[str, float] | None:
    """Return the log-probabilities of the first token's alternatives in a row's API completion, or None."""
    match row.get("raw_completion"):
        case {"logprobs": {"content": [{"top_logprobs": [*tokens]}, *_]}}:
            pass
        case _:
            return None
    try:
        return {str(token["token"]): float(token["logprob"]) for token in tokens}
    except (TypeError, KeyError, ValueError):
        return None
