import json
import math

import pytest
from table_rows import cells, ledger, row, score

from harness.benchmarks.base import Score
from harness.budget import Spending
from harness.errors import UserError
from harness.statistics.grids import grid
from harness.statistics.intervals import intervals
from harness.statistics.power import detectable
from harness.tables import to_json, to_markdown
from harness.tables.build import build
from harness.tables.json import from_json

GOLDEN = """\
## demo

| method | supervision     | MT-Bench, score (1-10) | budget spent | trained tokens | generated tokens | updates | time |
| ------ | --------------- | ---------------------- | ------------ | -------------- | ---------------- | ------- | ---- |
| base   | none            | 5.00 [1.20, 9.69]      | –            | –              | –                | –       | –    |
| sso    | principles\\|own | 6.50 [1.17, 9.93]      | 96.0 %       | 150k           | 30k              | 12      | 90 s |

Paired differences on the same questions, with p / p after Holm's correction:

| minus base | MT-Bench, score (1-10)          |
| ---------- | ------------------------------- |
| sso        | +1.50 [-4.85, +7.85] p 0.50 / – |

- Shortened: each benchmark asked a random sample of 2 questions, the same for all methods.
- Seeds: 1. In brackets: 95 % interval over questions.
- Fewer than 3 seeds (base 1, sso 1): run-to-run variance is unknown, so these methods are not marked or ranked.
- With one seed, intervals and p-values cover questions only: they hold for this model, not for others.
- Budget: 1e+12 FLOPs per run, including data generation, excluding scoring.
- FLOPs are counted from the model's architecture, for the work that is needed (--ledger needed).
- MT-Bench: 2 questions; judge gpt-4; missing: none; unparsed: base 1.
- Contamination by training texts was not looked for: MT-Bench.
"""  # noqa: E501


def test_markdown_is_as_drawn_above():
    """Two questions: differences of 1 and 2 have the standard error 0.5 and, with t of 1 degree, 1.5 +- 12.71 * 0.5; no
    p-value of two signs is below 2/4. base is 4/9 of the way from 1 to 10, with an error of 1/9: Wilson's interval of
    n = 20 (Kish) and k = 12.71 is (0.494 -+ 0.471) of the way.

    sso spends 2e6 * 30,000 + 6e6 * 150,000 = 9.6e11 of 1e12 FLOPs.
    """
    base = row("base", {"mt-bench": [score([4.0, 6.0], judge="gpt-4", unparsed=1)]})
    sso = row(
        "sso",
        {"mt-bench": [score([5.0, 8.0], judge="gpt-4")]},
        [ledger(1e12, 150_000, generated=30_000, updates=12)],
        supervision="principles|own",
    )
    table = build([sso, base], title="demo", titles={"mt-bench": "MT-Bench"}, limit=2)
    assert to_markdown(table) == GOLDEN


def test_values_differences_and_counts_by_hand():
    base = row("base", {"a": [score([1, 2, 3, None]), score([2, 3, 4, 5])]})
    sso = row("sso", {"a": [score([2, None, 5, 9]), score([4, 5, 6, 7])]})
    both = cells(build([base, sso]))
    cell = both["sso"]["a"]
    assert cell.by_seed == {0: pytest.approx(16 / 3), 1: 5.5}
    assert cell.value == pytest.approx((16 / 3 + 5.5) / 2)
    assert (cell.questions, cell.asked, cell.missing, cell.unparsed) == (4, 4, 1, 0)
    # Seed 0 answered 0 and 2 on both sides: (1 + 2) / 2; seed 1: 2. Questions 1 and 3 of seed 0 have no partner.
    assert cell.difference.value == pytest.approx(1.75)
    assert (cell.difference.questions, cell.difference.seeds, cell.difference.dropped) == (4, 2, 2)
    assert both["base"]["a"].difference is None


def test_interval_is_that_of_statistics():
    values = [[3.0, 5.0, 6.0, 9.0], [4.0, 4.0, 8.0, 9.5]]
    cell = cells(build([row("base", {"a": [score(each) for each in values]})]))["base"]["a"]
    own = grid({i: {str(j): v for j, v in enumerate(r)} for i, r in enumerate(values)})
    (expected,) = intervals([own], (1, 10))
    assert (cell.value, cell.low, cell.high) == (expected.value, expected.low, expected.high)


def test_weights_count():
    weighted = Score("a", "accuracy %", 25.0, {"x": 100.0, "y": 0.0}, {"x": 1.0, "y": 3.0}, questions=2)
    cell = cells(build([row("base", {"a": [weighted]})]))["base"]["a"]
    assert (cell.value, cell.by_seed) == (25.0, {0: 25.0})


def test_a_score_that_is_not_the_mean_of_its_values_is_a_fault():
    wrong = Score("a", "accuracy %", 60.0, {"x": 100.0, "y": 0.0}, questions=2)
    with pytest.raises(UserError, match="a, base seed 0: the score 60.0 is not the weighted mean 50.0"):
        build([row("base", {"a": [wrong]})])


def test_p_values_are_adjusted_for_the_whole_table():
    """Eight questions and equal seeds: p is 2 / 2^8 where all differences are the same, 1 where they cancel."""
    base = row("base", {name: [score([1.0] * 8, name)] * 3 for name in "ab"})
    better = row("better", {"a": [score([2.0] * 8, "a")] * 3, "b": [score([2.0, 0.0] * 4, "b")] * 3})
    same = row("same", {name: [score([2.0, 0.0] * 4, name)] * 3 for name in "ab"})
    table = build([base, better, same])
    shown = cells(table)
    assert table.comparisons == 4
    assert shown["better"]["a"].difference.p_value == 2 / 256
    assert shown["better"]["a"].p_holm == 4 * 2 / 256
    assert shown["better"]["b"].p_holm == shown["same"]["a"].p_holm == 1.0
    text = to_markdown(table)
    assert "2.00 [2.00, 2.00] *" in text
    assert text.count(" * ") == 1
    assert "p 0.0078 / 0.031" in text


def test_small_p_values_are_not_shown_as_zero():
    """All 40 differences alike: 2 of 2^40 patterns of signs reach that."""
    table = build([row("base", {"a": [score([1.0] * 40)] * 3}), row("sso", {"a": [score([2.0] * 40)] * 3})])
    assert cells(table)["sso"]["a"].difference.p_value == 2 / 2**40
    assert "p < 0.0001 / < 0.0001" in to_markdown(table)


def test_another_baseline_stands_first():
    rows = [row(name, {"a": [score([value, value])]}) for name, value in (("base", 1.0), ("dpo", 2.0), ("sso", 4.0))]
    table = build(rows, baseline="dpo")
    assert [each.method for each in table.rows] == ["dpo", "base", "sso"]
    assert [cells(table)[name]["a"].difference.value for name in ("base", "sso")] == [-1.0, 2.0]
    assert "| minus dpo " in to_markdown(table)
    with pytest.raises(UserError, match="unknown baseline 'dpp': did you mean 'dpo'"):
        build(rows, baseline="dpp")


@pytest.mark.parametrize(
    ("ledgers", "reason"),
    [
        ([ledger(1e12, 158_333), ledger(1e12, 166_666)], "spent 95.00–100.00 % of the cap"),  # 94.9998 %
        ([ledger(1e12, 158_334), ledger(1e12, 166_666)], None),  # 95.0004 % to 99.9996 %
        ([ledger(2e12, 320_000)], "had a cap of 2e+12 FLOPs, others 1e+12"),
        ([ledger(None, 160_000)], "no cap in FLOPs: spent 9.6e+11 FLOPs"),
        ([ledger(1e12, 0)], "not trained"),
    ],
)
def test_only_equal_budgets_are_ranked(ledgers, reason):
    scores = {"a": [score([1.0, 2.0])] * len(ledgers)}
    others = [row(name, {"a": [score([1.0, 2.0])] * 3}) for name in ("base", "dpo")]
    table = build([*others, row("sso", scores, ledgers)])
    base, dpo, sso = table.rows
    assert (base.ranked, base.reason) == (False, "not trained")
    assert (dpo.ranked, dpo.reason) == (True, None)
    assert (sso.ranked, sso.reason) == (reason is None, reason)
    marked = reason not in (None, "not trained")
    assert (f"† sso is not ranked: {reason}." in table.notes) == marked
    assert ("| sso † " in to_markdown(table)) == marked
    assert "base †" not in to_markdown(table)


def test_without_a_cap_in_flops_nothing_is_ranked():
    scores = {"a": [score([1.0, 2.0])]}
    table = build([row("base", scores), *(row(name, scores, [ledger(None, 100)]) for name in ("sso", "dpo"))])
    assert [each.ranked for each in table.rows] == [False] * 3
    assert "6e+08 FLOPs" in to_markdown(table)


def test_spending_is_the_mean_of_the_seeds():
    ledgers = [ledger(1e12, 160_000, updates=10), ledger(1e12, 164_000, generated=1000, updates=14)]
    sso = row("sso", {"a": [score([1.0, 2.0])] * 2}, ledgers)
    spent = build([row("base", {"a": [score([1.0, 2.0])] * 2}), sso]).rows[1].spent
    assert (spent.cap_flops, spent.share_min, spent.share_max) == (1e12, 0.96, pytest.approx(0.986))
    assert (spent.trained_tokens, spent.generated_tokens, spent.updates) == (162_000, 500, 12)
    assert spent.flops == pytest.approx(0.973e12)
    assert (spent.training_seconds, spent.scoring_seconds) == (90.0, 5.0)


def test_a_row_without_a_benchmark_or_a_verdict_shows_a_dash():
    nothing = Score("a", "score (1-10)", math.nan, {}, questions=2, missing=2)
    base = row("base", {"a": [nothing], "b": [score([1.0, 2.0])]})
    table = build([base, row("sso", {"a": [score([1.0, 2.0])]})])
    lines = to_markdown(table).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[3:5]] == ["–", "1.50 [1.00, 9.23]"]
    assert [cell.strip() for cell in lines[3].split("|")[3:5]] == ["1.50 [1.00, 9.23]", "–"]
    assert table.comparisons == 0
    assert "a: 2 questions; no judge; missing: base 2; unparsed: none." in table.notes
    shown = to_json(table)["rows"][0]["cells"]["a"]
    assert (shown["value"], shown["low"], shown["missing"]) == (None, None, 2)


def test_unequal_numbers_of_questions_show():
    base, sso = row("base", {"a": [score([1.0, 2.0, 3.0])]}), row("sso", {"a": [score([1.0, 2.0])]})
    assert any("a: 2–3 questions" in note for note in build([base, sso]).notes)


@pytest.mark.parametrize("what", ["judge", "metric"])
def test_scores_that_can_not_be_compared_are_refused(what):
    base = row("base", {"a": [score([1.0, 2.0], **{what: "one"})]})
    sso = row("sso", {"a": [score([1.0, 2.0], **{what: "other"})]})
    with pytest.raises(UserError, match=f"a: scores of different {what}s .*one: base; other: sso"):
        build([base, sso])


def test_testbed_scores_are_named_as_such():
    table = build([row("base", {"a": [score([1.0, 2.0])]})], testbed=True, titles={"a": "MT-Bench"})
    assert "| testbed MT-Bench, score (1-10) |" in to_markdown(table)
    assert "not scores on the real benchmarks" in table.notes[0]
    assert to_json(table)["testbed"] is True


def test_a_benchmarks_own_note_is_shown_once():
    noted = score([1.0, 2.0], details={"note": "scored without a reference"})
    table = build([row("base", {"a": [noted, noted]}), row("sso", {"a": [score([1.0, 2.0])] * 2})])
    assert list(table.notes).count("a, base: scored without a reference") == 1


def test_text_can_not_break_the_table():
    sso = row("base", {"a": [score([1.0, 2.0])]}, supervision="a|b\n| c |")
    lines = to_markdown(build([sso])).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines[:3]}) == 1
    assert "a\\|b \\| c \\|" in lines[2]


def test_percentages_have_one_decimal():
    text = to_markdown(build([row("base", {"a": [score([50.0, 75.26], metric="win rate %")]})]))
    assert "| 62.6 [3.3, 98.8] |" in text


def test_json_has_the_promised_names():
    base, sso = row("base", {"a": [score([1.0, 2.0])]}), row("sso", {"a": [score([2.0, 4.0])]})
    data = json.loads(json.dumps(to_json(build([base, sso], title="demo")), allow_nan=False))
    assert set(data) == {
        *("title", "baseline", "testbed", "benchmarks", "rows", "comparisons", "notes", "reported", "pairs", "command"),
        "detectable",
        "ledger",
    }
    assert data["benchmarks"] == [
        {"name": "a", "title": "a", "metric": "score (1-10)", "judge": None, "setting": None} | {"clusters": 2}
    ]
    assert set(data["rows"][1]) == {
        *("method", "supervision", "seeds", "cells", "spent", "ranked", "reason", "tuning", "run")
    }
    assert set(data["rows"][1]["spent"]) == {
        *("cap_flops", "share_min", "share_max", "flops", "trained_tokens", "generated_tokens", "updates"),
        *("training_seconds", "scoring_seconds", "wasted_flops"),
    }
    cell = data["rows"][1]["cells"]["a"]
    assert cell["by_seed"] == {"0": 3.0}
    assert cell["difference"] == {
        "value": 1.5,
        "low": pytest.approx(1.5 - 12.706 * 0.5, abs=1e-3),
        "high": pytest.approx(1.5 + 12.706 * 0.5, abs=1e-3),
        "p_value": 0.5,
        "seeds": 1,
        "questions": 2,
        "dropped": 0,
        "clusters": 2,
        "error": 0.5,
        "freedom": 1.0,
        "paired": True,
    }
    assert (cell["p_holm"], cell["questions"], cell["asked"]) == (None, 2, 2)


def test_flops_by_two_rules_never_share_a_table():
    rows = [row("base", {"a": [score([1.0, 2.0])]}), row("sso", {"a": [score([2.0, 4.0])]})]
    rows.append(row("dpo", {"a": [score([2.0, 4.0])]}))
    for each in rows[2].ledgers.values():
        each.rule = "nominal"
    with pytest.raises(UserError, match="counted by different rules cannot share a table .needed: sso; nominal: dpo."):
        build(rows)
    for each in rows[1].ledgers.values():
        each.rule = "nominal"
    table = build(rows)
    assert table.ledger == "nominal"
    assert any("nominal: 2 N per token and 6 N per trained token" in note for note in table.notes)
    assert from_json(json.loads(json.dumps(to_json(table))), "table.json").ledger == "nominal"


def test_what_was_wasted_is_said_beside_what_was_needed():
    rows = [row("base", {"a": [score([1.0, 2.0])]}), row("sso", {"a": [score([2.0, 4.0])]})]
    (ledger,) = rows[1].ledgers.values()
    ledger.roles["train"].wasted_flops = 0.05 * ledger.flops
    table = build(rows)
    assert (
        "Wasted on top of these FLOPs: 5.0 %, for padding and finished sequences that wait for their batch."
        in table.notes
    )
    assert table.rows[1].spent.wasted_flops == ledger.total.wasted_flops


def test_a_judge_of_unknown_size_is_outside_the_cap():
    rows = [row("base", {"a": [score([1.0, 2.0])]}), row("dpo", {"a": [score([2.0, 4.0])]})]
    (ledger,) = rows[1].ledgers.values()
    ledger.roles["judge"] = Spending(calls=12, prompt_tokens=3000, generated_tokens=600)
    (told,) = [note for note in build(rows).notes if "judging" in note]
    assert told.startswith("dpo: judging (12 calls, 3,600 tokens) is outside the cap") and "--judge-parameters" in told
    ledger.roles["judge"].flops = 1e9
    assert not [note for note in build(rows).notes if "judging" in note]


def test_repeated_prompts_are_told():
    rows = [row("base", {"a": [score([1.0, 2.0])]}), row("dpo", {"a": [score([2.0, 4.0])]})]
    (ledger,) = rows[1].ledgers.values()
    ledger.epochs = {"preferences": 0.9}
    assert not [note for note in build(rows).notes if "Passes" in note]
    ledger.epochs = {"preferences": 718.0}
    assert "Passes over the training prompts or pairs: dpo 718.0." in build(rows).notes


def test_the_smallest_difference_beside_the_baseline():
    """Of a single method: the t test of three differences, 1, 2 and 3, on the one question of each seed."""
    rows = [row("base", {"a": [score([2.0, 2.0])] * 3}), row("sso", {"a": [score([v, v]) for v in (3.0, 4.0, 5.0)]})]
    table = build(rows)
    alone, corrected = table.detectable["a"]
    assert alone == corrected == pytest.approx(detectable(math.sqrt(1 / 3), 2), rel=0.01)
    assert any(note.startswith("Smallest difference between two methods") for note in table.notes)
