"""The footnotes of a table: what its numbers mean, and what is missing, unparsed, unequal or unhealthy."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.statistics.intervals import LEAST_SEEDS
from harness.statistics.ranking import SIGNIFICANT

if TYPE_CHECKING:
    from harness.tables.schema import Column, ResultRow, Row, Table

RULES = {
    "needed": "those that the work needs, counted by the model's architecture (--ledger needed)",
    "nominal": "nominal: 2 N per token and 6 N per trained token, N all parameters (--ledger nominal)",
}
MOST_NAMED = 10  # methods with warnings of health that are told


def notes_of(table: "Table", stored: "Sequence[ResultRow]", limit: int | None) -> list[str]:
    """
    Args:
        stored: what the rows of the table were made from.
        limit: the number of questions each benchmark was cut to.
    """
    return [
        *_about(table, limit),
        *_comparisons(table),
        *_detectable(table),
        *_budgets(table),
        *_judging(stored),
        *_epochs(stored),
        *(_count(column, table.rows) for column in table.benchmarks),
        *_lengths(table),
        *_remarks(stored),
        *_health(stored),
    ]


def _about(table: "Table", limit: int | None) -> list[str]:
    notes = []
    if table.testbed:
        notes.append(
            "All scores are of the testbed: its own small model, questions and judge. They are not scores of the real "
            "benchmarks of these names."
        )
    if limit is not None:
        notes.append(f"Cut short: a random sample of {limit} questions of each benchmark was asked, the same for all.")
    seeds = [len(row.seeds) for row in table.rows]
    notes.append(
        f"Seeds: {number_range(seeds, '{}')}. In brackets: 95 % interval, over other questions"
        + (" and other training runs." if max(seeds) > 1 else ".")
    )
    notes.extend(_unequal_seeds(table))
    notes.extend(_few_seeds(table))
    return notes


def _few_seeds(table: "Table") -> Iterator[str]:
    """What cannot be said with so few seeds as some methods have."""
    few = {row.method: len(row.seeds) for row in table.rows if len(row.seeds) < LEAST_SEEDS}
    if not few:
        return
    listed = ", ".join(f"{method} {count}" for method, count in list(few.items())[:MOST_NAMED])
    more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
    yield (
        f"Fewer than {LEAST_SEEDS} seeds ({listed}{more}): too few to tell how another training run would turn out, so "
        "nothing of these methods is marked or ranked."
    )
    if 1 in few.values():
        yield "Intervals and p-values of one seed are about other questions, for this very model: runs are left out."


def _unequal_seeds(table: "Table") -> Iterator[str]:
    """Which method has which seeds, where they are not the same for all, and which scores are of fewer."""
    if len({row.seeds for row in table.rows}) > 1:
        listed = "; ".join(f"{row.method} {', '.join(map(str, row.seeds))}" for row in table.rows)
        yield (
            f"Unequal seeds: {listed}. Means are over each method's own seeds; differences over those that both have "
            f"where these are {LEAST_SEEDS} or more, else between the means."
        )
    for column in table.benchmarks:
        for row in table.rows:
            scored = row.cells[column.name].by_seed
            if scored and (without := [str(seed) for seed in row.seeds if seed not in scored]):
                yield f"{column.title}: {row.method} has no score with seed {', '.join(without)}."


def _comparisons(table: "Table") -> list[str]:
    notes = []
    if table.comparisons:
        number = "1 comparison" if table.comparisons == 1 else f"{table.comparisons} comparisons"
        sure = f"p < {SIGNIFICANT} after Holm's correction for {number}"
        notes.append(f"Marked *: differs from {table.baseline}, {sure}.")
    if table.pairs:
        number = "1 pair" if table.pairs == 1 else f"{table.pairs} pairs"
        notes.append(
            "#: rank, 1 + the number of ranked methods that are significantly better, and never before a method with a "
            "higher mean. Bold: significantly better than all others. "
            f"p < {SIGNIFICANT} after Holm's correction for {number} of ranked methods."
        )
    return notes


def _detectable(table: "Table") -> list[str]:
    if not table.detectable:
        return []
    titles = {column.name: column.title for column in table.benchmarks}
    parts = [f"{titles[name]} {alone:.2g} ({corrected:.2g})" for name, (alone, corrected) in table.detectable.items()]
    return [
        "Smallest difference of two methods that is found in 80 % of such tables, as the only comparison (after "
        f"the correction): {', '.join(parts)}."
    ]


def _budgets(table: "Table") -> list[str]:
    notes, rows = [], table.rows
    caps = sorted({row.spent.cap_flops for row in rows if row.spent.cap_flops and row.spent.flops})
    if caps:
        notes.append(f"Budget: {number_range(caps, '{:.3g}')} FLOPs a run, data generation included, scoring apart.")
    if table.ledger:
        notes.append(f"FLOPs are {RULES[table.ledger]}.")
    wasted = [row.spent.wasted_flops / row.spent.flops for row in rows if row.spent.flops]
    if any(wasted):
        shares = number_range([100 * share for share in wasted], "{:.1f}")
        notes.append(f"Wasted, beside these FLOPs: {shares} % of them, for padding and finished sequences that wait.")
    notes.extend(f"† {row.method} is not ranked: {row.reason}." for row in rows if row.spent.flops and not row.ranked)
    if any(row.tuning for row in rows):
        notes.append("Tuned: options chosen in so many trials on other prompts, which cost the FLOPs beside it in all.")
    return notes


def _judging(stored: "Sequence[ResultRow]") -> Iterator[str]:
    """Whose training asked a judge of unknown size."""
    for row in stored:
        spent = [ledger["roles"]["judge"] for ledger in row.ledgers.values() if "judge" in ledger["roles"]]
        tokens = sum(each["prompt_tokens"] + each["generated_tokens"] for each in spent)
        if tokens and not any(each["flops"] for each in spent):
            calls = sum(each["calls"] for each in spent)
            yield (
                f"{row.method}: judging ({calls:,} calls, {tokens:,} tokens) is outside the cap, because the judge's "
                "size is not known (--judge-parameters)."
            )


def _epochs(stored: "Sequence[ResultRow]") -> Iterator[str]:
    """How often training prompts were repeated, where any were."""
    epochs = {
        row.method: [max(ledger["epochs"].values()) for ledger in row.ledgers.values() if ledger.get("epochs")]
        for row in stored
    }
    if any(max(each, default=0.0) > 1 for each in epochs.values()):
        listed = ", ".join(f"{method} {number_range(each, '{:.1f}')}" for method, each in epochs.items() if each)
        yield f"Passes over the training prompts or pairs: {listed}."


def _count(column: "Column", rows: "Sequence[Row]") -> str:
    """What was asked and judged of a benchmark, and what is missing."""
    asked = [row.cells[column.name].asked for row in rows if row.cells[column.name].asked] or [0]
    parts = [f"{number_range(asked, '{}')} questions", f"judge {column.judge}" if column.judge else "no judge"]
    if column.clusters is None:
        parts.append("what hangs together was not stored: each question counts by itself")
    elif column.clusters < max(row.cells[column.name].questions for row in rows):
        parts[0] += f", {column.clusters} of them independent"
    if column.setting:
        parts.insert(1, column.setting)
    for what in ("missing", "unparsed"):
        counts = {row.method: getattr(row.cells[column.name], what) for row in rows}
        listed = ", ".join(f"{method} {count}" for method, count in counts.items() if count)
        parts.append(f"{what}: {listed or 'none'}")
    return f"{column.title}: {'; '.join(parts)}."


def _lengths(table: "Table") -> list[str]:
    cells = [cell.length_controlled for row in table.rows for cell in row.cells.values() if cell.length_controlled]
    if not cells:
        return []
    return [
        "Length-controlled win rate: mean over seeds, in no comparison. Its interval joins those of the seeds "
        "(questions) with the spread between seeds."
    ]


def _remarks(rows: "Sequence[ResultRow]") -> list[str]:
    """What a benchmark has to say about a score itself (details["note"]), once for each method."""
    said = {
        f"{name}, {row.method}: {score.details['note']}": None
        for row in rows
        for name, scores in row.scores.items()
        for score in scores.values()
        if "note" in score.details
    }
    scores = [(name, row.method, each) for row in rows for name, own in row.scores.items() for each in own.values()]
    for prompt in dict.fromkeys(
        score.details["system_prompt"] for *_, score in scores if "system_prompt" in score.details
    ):
        said[f"Questions were asked with the system prompt {prompt!r:.200}."] = None
    for switch in dict.fromkeys(score.details["thinking"] for *_, score in scores if "thinking" in score.details):
        said[f"Questions were asked with thinking {switch}."] = None
    unfinished: dict[tuple[str, str], int] = {}
    for name, method, score in scores:
        if number := score.details.get("unfinished_thoughts"):
            unfinished[name, method] = unfinished.get((name, method), 0) + number
    for (name, method), number in unfinished.items():
        said[f"{name}, {method}: {number} answers ended inside a thought, so there was nothing to score."] = None
    return list(said)


def _health(rows: "Sequence[ResultRow]") -> list[str]:
    notes = []
    for row in rows:
        warnings = [
            f"{warning} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            for warning, seeds in row.warnings.items()
        ]
        if warnings:
            notes.append(f"Health of training, {row.method}: {'; '.join(warnings)}.")
    more = len(notes) - MOST_NAMED
    return notes[:MOST_NAMED] + ([f"Health of training: warnings of {more} more methods."] if more > 0 else [])


def number_range(values: Sequence[float], form: str) -> str:
    """Smallest to largest as text, or one number where they look the same."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"
