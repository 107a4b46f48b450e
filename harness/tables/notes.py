"""The footnotes of a table: what its numbers mean, and what is missing, unparsed, unequal or unhealthy."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from harness.benchmarks.base import Score
from harness.benchmarks.contamination import SAME_PASSAGE, SAME_TEXT, by_kind
from harness.statistics.grids import LEAST_SEEDS
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.controls import control_warnings
from harness.tables.schema import Column, ResultRow, Row, Table

RULES = {
    "needed": "counted from the model's architecture, for the work that is needed (--ledger needed)",
    "nominal": "nominal: 2 N per token and 6 N per trained token, with N parameters (--ledger nominal)",
}
MOST_NAMED = 10  # methods that a note names


def notes_of(table: Table, stored: Sequence[ResultRow], limit: int | None) -> list[str]:
    """The notes of a table whose own notes are still empty.

    Args:
        stored: the results that the rows of the table were made from.
        limit: how many questions each benchmark was cut to.
    """
    return [
        *control_warnings(table, stored),
        *_about(table, limit),
        *_comparisons(table),
        *_detectable(table),
        *_budgets(table),
        *_judging(stored),
        *_epochs(stored),
        *(_count(column, table.rows) for column in table.benchmarks),
        *_contamination(table, stored),
        *_trivial(table, stored),
        *_lengths(table),
        *_remarks(stored),
        *_health(stored),
    ]


def _about(table: Table, limit: int | None) -> list[str]:
    notes = []
    if table.testbed:
        notes.append(
            "All scores are from the testbed, with its own small model, questions and judge. They are not scores on "
            "the real benchmarks of these names."
        )
    if limit is not None:
        notes.append(f"Shortened: each benchmark asked a random sample of {limit} questions, the same for all methods.")
    seeds = [len(row.seeds) for row in table.rows]
    notes.append(
        f"Seeds: {number_range(seeds, '{}')}. In brackets: 95 % interval over questions"
        + (" and training runs." if max(seeds) > 1 else ".")
    )
    notes.extend(_unequal_seeds(table))
    notes.extend(_few_seeds(table))
    return notes


def _few_seeds(table: Table) -> Iterator[str]:
    """Which methods have too few seeds for a test."""
    few = {row.method: len(row.seeds) for row in table.rows if len(row.seeds) < LEAST_SEEDS}
    if not few:
        return
    listed = ", ".join(f"{method} {count}" for method, count in list(few.items())[:MOST_NAMED])
    more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
    yield (
        f"Fewer than {LEAST_SEEDS} seeds ({listed}{more}): run-to-run variance is unknown, so these methods are not "
        "marked or ranked."
    )
    if 1 in few.values():
        yield "With one seed, intervals and p-values cover questions only: they hold for this model, not for others."


def _unequal_seeds(table: Table) -> Iterator[str]:
    """The seeds of each method, where they differ, and the scores that lack some."""
    if len({row.seeds for row in table.rows}) > 1:
        listed = "; ".join(f"{row.method} {', '.join(map(str, row.seeds))}" for row in table.rows)
        yield (
            f"Unequal seeds: {listed}. Means are over each method's own seeds. Differences use the seeds both have "
            f"if there are {LEAST_SEEDS} or more, else the two means."
        )
    for column in table.benchmarks:
        for row in table.rows:
            scored = row.cells[column.name].by_seed
            if scored and (without := [str(seed) for seed in row.seeds if seed not in scored]):
                yield f"{column.title}: {row.method} has no score for seed {', '.join(without)}."


def _comparisons(table: Table) -> list[str]:
    notes = []
    if table.comparisons:
        number = "1 comparison" if table.comparisons == 1 else f"{table.comparisons} comparisons"
        corrected = f"p < {SIGNIFICANT} after Holm's correction for {number}"
        notes.append(f"*: differs from {table.baseline}, {corrected}.")
    if table.pairs:
        number = "1 pair" if table.pairs == 1 else f"{table.pairs} pairs"
        notes.append(
            "#: rank, 1 + the number of ranked methods that are significantly better, never ahead of a method with a "
            "higher mean. Bold: significantly better than all others. Significant: "
            f"p < {SIGNIFICANT} after Holm's correction for {number} of ranked methods."
        )
    return notes


def _detectable(table: Table) -> list[str]:
    if not table.detectable:
        return []
    titles = {column.name: column.title for column in table.benchmarks}
    parts = [f"{titles[name]} {alone:.2g} ({corrected:.2g})" for name, (alone, corrected) in table.detectable.items()]
    return [
        "Smallest difference between two methods that 80 % of such tables would find, as the only comparison (after "
        f"the correction): {', '.join(parts)}."
    ]


def _budgets(table: Table) -> list[str]:
    notes, rows = [], table.rows
    caps = sorted({row.spent.cap_flops for row in rows if row.spent.cap_flops and row.spent.flops})
    if caps:
        notes.append(
            f"Budget: {number_range(caps, '{:.3g}')} FLOPs per run, including data generation, excluding scoring."
        )
    if table.ledger:
        notes.append(f"FLOPs are {RULES[table.ledger]}.")
    wasted = [row.spent.wasted_flops / row.spent.flops for row in rows if row.spent.flops]
    if any(wasted):
        shares = number_range([100 * share for share in wasted], "{:.1f}")
        notes.append(
            f"Wasted on top of these FLOPs: {shares} %, for padding and finished sequences that wait for their batch."
        )
    notes.extend(f"† {row.method} is not ranked: {row.reason}." for row in rows if row.spent.flops and not row.ranked)
    if any(row.tuning for row in rows):
        notes.append("Tuned: options were chosen in the stated trials on held-out prompts; FLOPs are their total cost.")
    return notes


def _judging(stored: Sequence[ResultRow]) -> Iterator[str]:
    """Methods whose training asked a judge of unknown size."""
    for row in stored:
        spent = [ledger.roles["judge"] for ledger in row.ledgers.values() if "judge" in ledger.roles]
        tokens = sum(each.prompt_tokens + each.generated_tokens for each in spent)
        if tokens and not any(each.flops for each in spent):
            calls = sum(each.calls for each in spent)
            yield (
                f"{row.method}: judging ({calls:,} calls, {tokens:,} tokens) is outside the cap, because the judge's "
                "size is unknown (--judge-parameters)."
            )


def _epochs(stored: Sequence[ResultRow]) -> Iterator[str]:
    """How often training prompts were repeated, if any method repeated them."""
    epochs = {
        row.method: [max(ledger.epochs.values()) for ledger in row.ledgers.values() if ledger.epochs] for row in stored
    }
    if any(max(each, default=0.0) > 1 for each in epochs.values()):
        listed = ", ".join(f"{method} {number_range(each, '{:.1f}')}" for method, each in epochs.items() if each)
        yield f"Passes over the training prompts or pairs: {listed}."


def _count(column: Column, rows: Sequence[Row]) -> str:
    """The questions and the judge of a benchmark, and what is missing."""
    asked = [row.cells[column.name].asked for row in rows if row.cells[column.name].asked] or [0]
    parts = [f"{number_range(asked, '{}')} questions", f"judge {column.judge}" if column.judge else "no judge"]
    if column.clusters is None:
        parts.append("clusters were not stored: each question counts as independent")
    elif column.clusters < max(row.cells[column.name].questions for row in rows):
        parts[0] += f", {column.clusters} of them independent"
    if column.setting:
        parts.insert(1, column.setting)
    for what in ("missing", "unparsed"):
        counts = {row.method: getattr(row.cells[column.name], what) for row in rows}
        listed = ", ".join(f"{method} {count}" for method, count in counts.items() if count)
        parts.append(f"{what}: {listed or 'none'}")
    return f"{column.title}: {'; '.join(parts)}."


def _contamination(table: Table, stored: Sequence[ResultRow]) -> Iterator[str]:
    """Questions that are in a method's training texts, with the score on the others."""
    clean, unknown = [], []
    for column in table.benchmarks:
        known = {row.method: list(row.scores.get(column.name, {}).values()) for row in stored}
        if any(score.contaminated is None for scores in known.values() for score in scores):
            unknown.append(column.title)
            continue
        found = [_contaminated(method, scores) for method, scores in known.items() if scores]
        if any(found):
            yield f"Contamination, {column.title}: {'; '.join(filter(None, found))}."
        else:
            clean.append(column.title)
    if clean:
        listed = ", ".join(clean)
        yield f"Contamination: no question of {listed} is in the training texts ({SAME_TEXT}, {SAME_PASSAGE})."
    if unknown:
        yield f"Contamination by training texts was not looked for: {', '.join(unknown)}."


def _contaminated(method: str, scores: Sequence[Score]) -> str | None:
    found: dict[str, str] = {}
    for score in scores:
        found |= score.contaminated or {}
    if not found:
        return None
    kinds = ", ".join(f"{number} by {kind}" for kind, number in sorted(by_kind(found).items()))
    others, every = fmean(score.clean() for score in scores), fmean(score.value for score in scores)
    asked = max(score.questions for score in scores)
    return (
        f"{len(found)} of {asked} questions are in the training texts of {method} ({kinds}); on the others it scores "
        f"{others:.2f}, on all {every:.2f}"
    )


def _trivial(table: Table, stored: Sequence[ResultRow]) -> Iterator[str]:
    """What rules that read no answer would score (details["controls"]): for all methods, or for each if it differs."""
    for column in table.benchmarks:
        found: dict[str, dict[str, list[float]]] = {}
        for row in stored:
            for score in row.scores.get(column.name, {}).values():
                for rule, value in score.details.get("controls", {}).items():
                    found.setdefault(rule, {}).setdefault(row.method, []).append(value)
        parts = []
        for rule, by_method in found.items():
            shown = {method: number_range(values, "{:.1f}") for method, values in by_method.items()}
            alike = len(set(shown.values())) == 1
            parts.append(
                f"{next(iter(shown.values()))} if {rule}"
                if alike
                else f"{', '.join(f'{method} {values}' for method, values in shown.items())} if {rule}"
            )
        if parts:
            yield f"{column.title}, what trivial rules would score: {'; '.join(parts)}."


def _lengths(table: Table) -> list[str]:
    cells = [cell.length_controlled for row in table.rows for cell in row.cells.values() if cell.length_controlled]
    if not cells:
        return []
    return [
        "Length-controlled win rate: mean over seeds, not compared. Its interval joins the intervals of the seeds "
        "(over questions) with the spread between seeds."
    ]


def _remarks(rows: Sequence[ResultRow]) -> list[str]:
    """Notes of benchmarks on their own scores (details["note"]) and how questions were asked, each once."""
    notes = {
        f"{name}, {row.method}: {score.details['note']}": None
        for row in rows
        for name, scores in row.scores.items()
        for score in scores.values()
        if "note" in score.details
    }
    scores = [
        (name, row.method, score) for row in rows for name, by_seed in row.scores.items() for score in by_seed.values()
    ]
    for prompt in dict.fromkeys(
        score.details["system_prompt"] for *_, score in scores if "system_prompt" in score.details
    ):
        notes[f"Questions were asked with the system prompt {prompt!r:.200}."] = None
    for switch in dict.fromkeys(score.details["thinking"] for *_, score in scores if "thinking" in score.details):
        notes[f"Questions were asked with thinking {switch}."] = None
    unfinished: dict[tuple[str, str], int] = {}
    for name, method, score in scores:
        if number := score.details.get("unfinished_thoughts"):
            unfinished[name, method] = unfinished.get((name, method), 0) + number
    for (name, method), number in unfinished.items():
        notes[f"{name}, {method}: {number} answers ended inside a thought, so nothing could be scored."] = None
    return list(notes)


def _health(rows: Sequence[ResultRow]) -> list[str]:
    notes = []
    for row in rows:
        warnings = [
            f"{warning} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            for warning, seeds in row.warnings.items()
        ]
        if warnings:
            notes.append(f"Health of training, {row.method}: {'; '.join(warnings)}.")
    more = len(notes) - MOST_NAMED
    return notes[:MOST_NAMED] + ([f"Health of training: {more} more methods have warnings."] if more > 0 else [])


def number_range(values: Sequence[float], form: str) -> str:
    """The range as text, or one number where smallest and largest look the same."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"
