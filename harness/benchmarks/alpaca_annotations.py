"""AlpacaEval annotations that exist already, in the package's format: the win rates of one model."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

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

SAME = ("generator_2", "annotator", "generator_1")  # what all rows of a file share
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
) -> dict:
    """Win rates of the model whose annotations a file holds (a JSON list or JSONL, plain or .gz).

    Args:
        df_gamed: the package's df_gamed.csv, for the length-controlled win rate.
        from_logprobs: read each preference in the stored completion's log-probabilities again, in the order of the pair
            that the package's seed gives; a row without them has none.
        seed, resamples: of the bootstrap.
        marks: of thoughts, which are taken off the model's outputs before their length is measured.

    Returns:
        `summary`, and model, reference, annotator, duplicates (further rows of an instruction: the first with a
        preference counts); with from_logprobs also without_logprobs (rows) and differing (rows whose recorded
        preference is another one).

    Raises:
        UserError: for a malformed row, several models, references or annotators in one file, or a file without any
            preference.
    """
    located = files.read_located_rows(
        path,
        written_by_models=True,
        nan_is_absent=("preference", *PRICES, "raw_completion"),
        **dict.fromkeys(KEYS, str),
    )
    shared = {name: _the_same(path, name, [row for _, row in located]) for name in SAME}
    if from_logprobs:
        readings = [_first_token(row.get("raw_completion")) for _, row in located]
    else:
        readings = [_recorded(where, row) for where, row in located]
    chosen: dict[str, tuple[dict, Any]] = {}
    for (where, row), reading in zip(located, readings, strict=True):
        _check_texts(where, row)
        if chosen.setdefault(row["instruction"], (row, reading))[1] is None:
            chosen[row["instruction"]] = row, reading
    rows, readings = zip(*chosen.values(), strict=True)
    preferences = _recomputed(rows, readings) if from_logprobs else readings
    splits = [split_thought(row["output_2"], marks) for row in rows]
    comparisons = [
        JudgedPair(official_index(row["instruction"]), preference, row["output_1"], split.answer)
        for row, preference, split in zip(rows, preferences, splits, strict=True)
    ]
    if not any(each.preference is not None for each in comparisons):
        raise UserError(f"{path}: no row has a preference")
    result = summary(comparisons, df_gamed, seed, resamples) | {
        "model": shared["generator_2"],
        "reference": shared["generator_1"],
        "annotator": shared["annotator"],
        "duplicates": len(located) - len(rows),
        **counted(splits),
    }
    if from_logprobs:
        unread = zip(readings, preferences, strict=True)
        result["without_logprobs"] = sum(letters is None and preference is None for letters, preference in unread)
        result["differing"] = sum(map(_differs, rows, preferences))
    return result


def summary(
    comparisons: Sequence[JudgedPair], df_gamed: Path | None, seed: int = 0, resamples: int = RESAMPLES
) -> dict:
    """The numbers of one model, for files and live runs alike.

    Returns:
        win_rate, standard_error, length_controlled_win_rate (percent; None with length_controlled_reason where it can
        not be computed), length_controlled_interval (95 %; None where the rate is), interval (that, or the raw win
        rate's where it is None, as interval_of says), win_rate_interval, average_length (characters), n (preferences),
        missing (of the 805 instructions: those without a preference), unparsed (rows without a preference).
    """
    known = [each.preference for each in comparisons if each.preference is not None]
    raw = win_rates(known, seed, resamples)
    controlled = length_controlled(comparisons, df_gamed, seed, resamples)
    answered = {each.index for each in comparisons if each.preference is not None} - {None}
    return {
        "win_rate": raw["win_rate"],
        "standard_error": raw["standard_error"],
        "length_controlled_win_rate": controlled.value,
        "length_controlled_interval": list(controlled.interval) if controlled.interval else None,
        "interval": list(controlled.interval or raw["win_rate_interval"]),
        "interval_of": "win_rate" if controlled.value is None else "length_controlled_win_rate",
        "length_controlled_reason": controlled.reason,
        "win_rate_interval": list(raw["win_rate_interval"]),
        "average_length": fmean(len(each.output) for each in comparisons),
        "n": len(known),
        "missing": ALL - len(answered),
        "unparsed": len(comparisons) - len(known),
    }


def _the_same(path: Path, name: str, rows: Sequence[dict]) -> str | None:
    values = sorted({str(row[name]) for row in rows if row.get(name) is not None})
    if len(values) > 1:
        raise UserError(f"{path}: rows of several {name}s ({', '.join(values[:5])}): give one file for each")
    return values[0] if values else None


def _check_texts(where: str, row: dict) -> None:
    for name in KEYS:
        try:
            row[name].encode()
        except UnicodeEncodeError:  # JSON can hold half of a surrogate pair; the package's tables can not
            raise UserError(f"{where}: field {name!r} is no Unicode text") from None


def _recorded(where: str, row: dict) -> float | None:
    if "preference" not in row:
        raise UserError(f"{where}: has no field 'preference' (or use --from-logprobs)")
    return read_preference(where, row["preference"])


def read_preference(where: str, value: object) -> float | None:
    """A stored preference: 1 to 2, 0 for a tie, or null.

    Raises:
        UserError: for anything else.
    """
    if value is None or value != value:
        return None
    if type(value) in (int, float) and (value == 0 or 1 <= value <= 2):
        return float(value) or 1.5
    raise UserError(f"{where}: preference must be from 1 to 2, 0 for a tie, or null, not {value!r:.60}")


def _differs(row: dict, preference: float | None) -> bool:
    """Whether a row records another preference than the one found."""
    recorded = row.get("preference")
    if preference is None or type(recorded) not in (int, float) or recorded != recorded:
        return False
    return abs((recorded or 1.5) - preference) > CLOSE


def _recomputed(rows: Sequence[dict], letters: Sequence[dict[str, float] | None]) -> list[float | None]:
    """Preferences from stored log-probabilities, with the package's order of each pair and its reading."""
    from harness.benchmarks.alpaca_annotator import annotate

    first = {row["instruction"]: each for row, each in zip(rows, letters, strict=True)}

    def replies(prompts: Sequence[dict], _template) -> list[JudgeReply]:
        return [JudgeReply("", "", first_token=first[prompt["instruction"]]) for prompt in prompts]

    return annotate([{name: row[name] for name in KEYS} for row in rows], replies)


def _first_token(completion: object) -> dict[str, float] | None:
    """Log-probabilities of the first token's alternatives in a stored completion of the API, or None."""
    match completion:
        case {"logprobs": {"content": [{"top_logprobs": [*tokens]}, *_]}}:
            pass
        case _:
            return None
    try:
        return {str(each["token"]): float(each["logprob"]) for each in tokens}
    except (TypeError, KeyError, ValueError):
        return None
