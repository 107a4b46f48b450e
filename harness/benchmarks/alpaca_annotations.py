"""AlpacaEval annotations that exist already, in the package's format: the win rates of one model."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from harness.benchmarks import files
from harness.benchmarks.alpaca_win_rates import (
    ALL,
    Comparison,
    length_controlled,
    official_index,
    read_preference,
    win_rates,
)
from harness.errors import UserError
from harness.judges.base import JudgeReply

SAME = ("generator_2", "annotator", "generator_1")  # what all rows of a file share


def score_annotations(path: Path, *, df_gamed: Path | None = None, from_logprobs: bool = False, seed: int = 0) -> dict:
    """Win rates of the model whose annotations a file holds (a JSON list or JSONL, plain or .gz).

    Args:
        df_gamed: the package's df_gamed.csv, for the length-controlled win rate.
        from_logprobs: read each preference in the stored completion's log-probabilities again; a row without them has
            none.
        seed: of the bootstrap.

    Returns:
        `summary`, and model, reference, annotator, duplicates (rows whose instruction came before: the first counts),
        without_logprobs (with from_logprobs).

    Raises:
        UserError: for a malformed row, several models, references or annotators in one file, or a file without any
            preference.
    """
    located = files.read_located_rows(path, instruction=str, output_1=str, output_2=str)
    shared = {name: _the_same(path, name, [row for _, row in located]) for name in SAME}
    rows, seen = [], set()
    for where, row in located:
        if row["instruction"] not in seen:
            seen.add(row["instruction"])
            rows.append((where, row))
    result = {
        "model": shared["generator_2"],
        "reference": shared["generator_1"],
        "annotator": shared["annotator"],
        "duplicates": len(located) - len(rows),
    }
    if from_logprobs:
        preferences, result["without_logprobs"] = _recomputed([row for _, row in rows])
    else:
        for where, row in rows:
            if "preference" not in row:
                raise UserError(f"{where}: has no field 'preference' (or use --from-logprobs)")
        preferences = [read_preference(where, row["preference"]) for where, row in rows]
    comparisons = [
        Comparison(official_index(row["instruction"]), preference, row["output_1"], row["output_2"])
        for (_, row), preference in zip(rows, preferences, strict=True)
    ]
    if not any(each.preference is not None for each in comparisons):
        raise UserError(f"{path}: no row has a preference")
    return summary(comparisons, df_gamed, seed) | result


def summary(comparisons: Sequence[Comparison], df_gamed: Path | None, seed: int = 0) -> dict:
    """The numbers of one model, for files and live runs alike.

    Returns:
        win_rate, standard_error, length_controlled_win_rate (percent; None with length_controlled_reason where it can
        not be computed), interval (95 %, of the number that interval_of names: the length-controlled win rate, or the
        raw one where that is None), win_rate_interval, average_length (characters), n (preferences), missing (of the
        805 instructions: those without a preference), unparsed (rows without a preference).
    """
    known = [each.preference for each in comparisons if each.preference is not None]
    raw = win_rates(known, seed)
    controlled = length_controlled(comparisons, df_gamed, seed)
    answered = {each.index for each in comparisons if each.preference is not None} - {None}
    return {
        "win_rate": raw["win_rate"],
        "standard_error": raw["standard_error"],
        "length_controlled_win_rate": controlled.value,
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


def _recomputed(rows: Sequence[dict]) -> tuple[list[float | None], int]:
    """Preferences from the stored completions, with the package's order of each pair, and how many rows have none."""
    from harness.benchmarks.alpaca_eval import KEYS, annotate

    first = {row["instruction"]: _first_token(row.get("raw_completion")) for row in rows}

    def replies(pairs: Sequence[dict], _template) -> list[JudgeReply]:
        return [JudgeReply("", "", first_token=first[pair["instruction"]]) for pair in pairs]

    preferences = annotate([{name: row[name] for name in KEYS} for row in rows], replies)
    unread = zip(first.values(), preferences, strict=True)
    return preferences, sum(letters is None and preference is None for letters, preference in unread)


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
