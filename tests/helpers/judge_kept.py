"""The kept tables of results/, judged by the rules of docs/statistics.md: python tests/helpers/judge_kept.py

Values of single questions were not kept, only the means of seeds and the intervals that resampling gave. The means say
exactly what runs add to the error of a difference. What questions add follows from the old interval but for the rest
within questions, which is somewhere from nothing to all of the variance of the means: every p-value is known within
bounds, and so is whether a mark stays. Of two methods neither of which is the baseline no interval was kept: what
questions add to their difference is from nothing to the sum of what they add to those with the baseline. Questions
count one by one: which of them hang together was not stored either. `testbed-untuned` and `testbed-faster` are from
before there were ranks.
"""

import json
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from paths import RESULTS
from scipy.special import ndtr, stdtrit

from harness.statistics.estimates import Estimates
from harness.statistics.grids import LEAST_SEEDS
from harness.statistics.intervals import holm
from harness.statistics.ranking import SIGNIFICANT

FILE = RESULTS / "JUDGED_AGAIN.md"
TABLES = ("testbed-7", "testbed-7-12", "testbed-untuned", "testbed-faster", "ablation", "ablation-weak")
TABLES += ("budget-6e11", "budget-1.2e12", "budget-2.4e12", "budget-4.8e12")
SHARES = np.linspace(0.0, 1.0, 21)  # of the variance of the seeds' means that the rest may be
PAIRS = {"testbed-7-12": ("sso", "pbaa")}  # compared in results/README.md
OLD_INTERVALS = {  # there: sso - pbaa of testbed-7-12, from the values of questions
    ("testbed-7-12", "mt-bench"): (0.05, 0.21),
    ("testbed-7-12", "reward-bench"): (1.6, 5.0),
    ("testbed-7-12", "math"): (0.3, 3.9),
    ("testbed-7-12", "alpaca-eval"): (-0.8, 0.5),
}


@dataclass(frozen=True)
class Bounds:
    """Of a difference: the smallest and the largest p-value that it can have, and what questions add to its squared
    error at most."""

    low: float
    high: float
    questions: float


def bounds(differences: list[float], half: float, questions: int) -> Bounds:
    """
    Args:
        differences: of each seed. half: of the interval that was kept.
    """
    seeds, between = len(differences), np.var(differences, ddof=1)
    found = np.array([_questions(half, between, share, seeds) for share in SHARES])
    p_values = _p_values(np.mean(differences), found, between / seeds, questions, seeds)
    return Bounds(min(p_values), max(p_values), max(found))


def _questions(half: float, between: float, share: float, seeds: int) -> float:
    """What questions add to the squared error, where the rest is this share of the variance of the seeds' means: the
    old interval was that of a normal, with questions and rest, plus Student's t with what runs add beyond."""
    beyond = stdtrit(seeds - 1, (np.arange(2000) + 0.5) / 2000) * sqrt((1 - share) * between / seeds)
    low, high = 1e-9 * half, half / 1.9
    for _ in range(40):
        middle = (low + high) / 2
        outside = (ndtr((beyond - half) / middle) + ndtr((-beyond - half) / middle)).mean()
        low, high = (low, middle) if outside > 0.05 else (middle, high)
    return max(0.0, high**2 - share * between / seeds)


def _p_values(value: float, questions: np.ndarray, runs: float, asked: int, seeds: int) -> np.ndarray:
    ones = np.ones_like(questions)
    return Estimates(value * ones, questions, runs * ones, asked * ones, asked * ones, seeds - 1, questions).p_values()


def judge(name: str) -> list[str]:
    """What is said of a table, as lines of Markdown."""
    table = json.loads((RESULTS / name / "table.json").read_text())
    rows = {row["method"]: row for row in table["rows"]}
    seeds = min(len(row["seeds"]) for row in table["rows"])
    if seeds < LEAST_SEEDS:
        return [f"{seeds} seeds: nothing is called."]
    found = {
        (benchmark, method): bounds(_apart(rows[method], rows[table["baseline"]], benchmark), *_kept(cell))
        for method, row in rows.items()
        for benchmark, cell in row["cells"].items()
        if cell["difference"]
    }
    lines = [_stars(rows, found, table["baseline"])]
    ranked = [method for method, row in rows.items() if row["ranked"]]
    if len(ranked) > 1:
        lines += _ranks(name, table, rows, ranked, found)
    if name in PAIRS:
        lines += _pair(name, rows, *PAIRS[name])
    return lines


def _kept(cell: dict) -> tuple[float, int]:
    difference = cell["difference"]
    return (difference["high"] - difference["low"]) / 2, difference["questions"]


def _apart(first: dict, second: dict, benchmark: str) -> list[float]:
    own, other = (row["cells"][benchmark]["by_seed"] for row in (first, second))
    return [own[seed] - other[seed] for seed in own if seed in other]


def _stars(rows: dict, found: dict[tuple[str, str], Bounds], baseline: str) -> str:
    least, most = (holm([getattr(each, end) for each in found.values()]) for end in ("low", "high"))
    told: dict[str, list[str]] = {"stay": [], "may stay": [], "go": [], "come": []}
    for (benchmark, method), low, high in zip(found, least, most, strict=True):
        marked = rows[method]["cells"][benchmark]["p_holm"] < SIGNIFICANT
        if marked:
            what = "stay" if high < SIGNIFICANT else "go" if low >= SIGNIFICANT else "may stay"
            told[what].append(f"{method} on {benchmark}")
        elif high < SIGNIFICANT:
            told["come"].append(f"{method} on {benchmark}")
    parts = [f"{what}: {len(names)}" + _listed(what, names) for what, names in told.items() if names]
    return f"Marks * against {baseline}: {'; '.join(parts) or 'none'}."


def _listed(what: str, names: list[str]) -> str:
    return "" if what == "stay" else f" ({', '.join(names)})"


def _ranks(name: str, table: dict, rows: dict, ranked: list[str], found: dict[tuple[str, str], Bounds]) -> list[str]:
    """The ranks that are possible of each method: by the fewest and by the most pairs that can be significant."""
    names = [column["name"] for column in table["benchmarks"]]
    low, high, ahead = {}, {}, {}
    for benchmark in names:
        for first, second in combinations(ranked, 2):
            apart = _apart(rows[first], rows[second], benchmark)
            seeds, place = len(apart), (benchmark, first, second)
            asked = rows[first]["cells"][benchmark]["questions"]
            if (name, benchmark) in OLD_INTERVALS:
                own = bounds(apart, _half(name, benchmark), asked)
                p_values = own.low, own.high
            else:
                most = sum(sqrt(_part(found, benchmark, each)) for each in (first, second)) ** 2
                between = np.var(apart, ddof=1) / seeds
                p_values = _p_values(np.mean(apart), np.linspace(0, most, 21), between, asked, seeds)
            low[place], high[place], ahead[place] = min(p_values), max(p_values), np.mean(apart) > 0
    told = []
    possible = {}
    for p_values in (low, high):
        adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
        for benchmark in names:
            better = {method: 0 for method in ranked}
            for (where, first, second), p_value in adjusted.items():
                if where == benchmark and p_value < SIGNIFICANT:
                    better[second if ahead[where, first, second] else first] += 1
            order = sorted(ranked, key=lambda method: -rows[method]["cells"][benchmark]["value"])
            worst = 0
            for method in order:
                worst = max(worst, 1 + better[method])
                possible.setdefault((benchmark, method), []).append(worst)
    for benchmark in names:
        shown = []
        for method in ranked:
            ends, old = sorted(possible[benchmark, method]), rows[method]["cells"][benchmark]["rank"]
            now = f"#{ends[0]}" if ends[0] == ends[1] else f"#{ends[0]} to #{ends[1]}"
            shown.append(f"{method} {now}" + (f" (was #{old})" if old and ends != [old, old] else ""))
        told.append(f"Ranks on {benchmark}: {', '.join(shown)}.")
    return told


def _part(found: dict[tuple[str, str], Bounds], benchmark: str, method: str) -> float:
    each = found.get((benchmark, method))
    return each.questions if each else 0.0


def _pair(name: str, rows: dict, first: str, second: str) -> list[str]:
    """Two methods, corrected for both differences to `second` on every benchmark, as in results/README.md."""
    lines, names = [], list(rows[first]["cells"])
    apart = {each: _apart(rows[first], rows[second], each) for each in names}
    own = {}
    for each in names:
        own[each] = bounds(apart[each], _half(name, each), rows[first]["cells"][each]["questions"])
    base = [(each, _apart(rows["base"], rows[second], each)) for each in names]
    others = [bounds(values, *_kept(rows[second]["cells"][each])) for each, values in base]
    ends = [holm([getattr(each, end) for each in (*own.values(), *others)]) for end in ("low", "high")]
    for place, each in enumerate(names):
        value = np.mean(apart[each])
        raw, corrected = (
            f"{low:.2g} to {high:.2g}"
            for low, high in ((own[each].low, own[each].high), (ends[0][place], ends[1][place]))
        )
        lines.append(f"{first} - {second} on {each}: {value:+.2f}, p {raw}, corrected {corrected}.")
    return lines


def _half(name: str, benchmark: str) -> float:
    low, high = OLD_INTERVALS[name, benchmark]
    return (high - low) / 2


def text() -> str:
    parts = ["# The kept tables, judged again\n", __doc__.split("\n\n", 1)[1]]
    for name in TABLES:
        parts.append(f"## {name}\n")
        parts.append("\n".join(f"- {line}" for line in judge(name)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(text())
