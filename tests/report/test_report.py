"""The report page without a browser: what it says, what it draws, and what it holds."""

import base64
import gzip
import html
import json
import random
import re
from pathlib import Path

import pytest
from command_line import harness
from forged_run import forge, write

from harness.experiment.options import Experiment
from harness.report import figures, samples, training, wording
from harness.report.drawing import Series, apart
from harness.report.run import ReportedRun
from harness.report.verdict import verdict
from harness.tables import layout

MT, MATH = "mt-bench", "math"


def alike(low: float, high: float, questions: int = 40) -> list[list[float]]:
    """Three seeds with the same values, half of them low and half high."""
    return [[low, high] * (questions // 2)] * 3


def read(tmp_path, values, **rest) -> ReportedRun:
    return ReportedRun.read(forge(tmp_path / "run", values, **rest))


def series_of(run: ReportedRun) -> list[Series]:
    return [Series(name, index) for index, name in enumerate(run.methods)]


def test_a_method_that_is_ahead_everywhere_wins(tmp_path):
    """All 40 signs alike, no variation between seeds: p is 2 / 2^40; times 2 pairs of ranked methods."""
    values = {MT: {"base": alike(2, 4), "sso": alike(6, 8), "dpo": alike(4, 6)}}
    values[MATH] = {"base": alike(20, 40), "sso": alike(60, 80), "dpo": alike(40, 60)}
    run = read(tmp_path, values)
    told = verdict(run)
    assert told.headline == "sso wins."
    assert told.sentences[0].startswith("sso has the highest score on all 2 benchmarks. Every lead")
    assert told.sentences[1] == "Significantly better than base: sso and dpo on all 2 benchmarks."
    (first, _) = told.leaders
    assert (first.row.method, first.clear, first.pairs[0].second) == ("sso", True, "dpo")
    assert first.pairs[0].difference.value == 2.0
    assert first.pairs[0].p_holm == pytest.approx(2 * 2 / 2**40)
    assert "97.0 %" in " ".join(told.cost) and "5.82 × 10¹² FLOPs in all" in " ".join(told.cost)


def test_leads_within_the_noise_are_no_win(tmp_path):
    """dpo is 1 better and 1 worse in turn, with one more of the better: p is near 1."""
    base = [[1.0, 2.0] * 20] * 3
    dpo = [[6.0, 5.0] * 20] * 3
    sso = [[5.0, 6.0] * 19 + [6.5, 5.0]] * 3
    told = verdict(read(tmp_path, {MT: {"base": base, "dpo": dpo, "sso": sso}}))
    assert told.headline == "No clear winner among the methods."
    assert "do not show which is best" in told.sentences[0]
    assert told.leaders[0].row.method == "sso" and told.leaders[0].undecided == ["dpo"]


def test_one_method_is_told_against_the_baseline(tmp_path):
    told = verdict(read(tmp_path, {MT: {"base": alike(5, 6), "dpo": alike(4, 5)}}))
    assert told.headline == "Significantly better than base: none."
    assert "Significantly worse than base: dpo on 1." in told.sentences
    assert told.pairs == ()


def test_without_training_or_with_other_budgets_nobody_wins(tmp_path):
    assert verdict(read(tmp_path / "a", {MT: {"base": alike(1, 2)}})).headline.startswith("No method was trained")
    values = {MT: {"base": alike(1, 2), "dpo": alike(3, 4)}}
    told = verdict(read(tmp_path / "b", values, trained_tokens=100_000))  # 60 % of the cap
    assert told.headline == "No winner: dpo did not spend the same budget."


def test_one_seed_is_said_to_be_one(tmp_path):
    told = verdict(read(tmp_path, {MT: {"base": alike(1, 2)[:1], "dpo": alike(3, 4)[:1]}}))
    assert "With fewer than 3 runs per method nothing can be tested" in " ".join(told.certainty)
    assert not told.leaders[0].clear


def test_with_too_few_runs_nothing_is_called(tmp_path):
    values = {MT: {"base": [[5.0] * 40] * 2, "dpo": [[9.0] * 39 + [8.0]] * 2, "sso": [[7.0] * 39 + [8.0]] * 2}}
    told = verdict(read(tmp_path, values))
    assert told.headline == "Too few training runs to name a winner."
    (sentence,) = told.sentences
    assert sentence.startswith("dpo has the highest score on the one benchmark. With fewer than 3 training runs per ")
    assert not told.leaders[0].clear and not told.leaders[0].can_be_called


def test_equal_scores_are_shared(tmp_path):
    """sso and dpo are each right where the other is wrong."""
    values = {MT: {"base": [[5.0, 5.0] * 20] * 2, "dpo": [[9.0, 7.0] * 20] * 2, "sso": [[7.0, 9.0] * 20] * 2}}
    (sentence,) = verdict(read(tmp_path, values)).sentences
    assert sentence.startswith("dpo and sso share the highest score on the one benchmark. With fewer than 3 training ")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (wording.signed(-0.04), "0.0"),
        (wording.signed(-0.06), "−0.1"),
        (wording.signed(2.0, 2), "+2.00"),
        (wording.number(float("nan")), "–"),
        (wording.power(3e11), "3 × 10¹¹"),
        (wording.power(4.488e12), "4.49 × 10¹²"),
        (wording.p_value(0.00002), "p < 0.0001"),
        (wording.p_value(0.002), "p = 0.002"),
        (layout.count(30_120), "30.1k"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.listed(["a"]), "a"),
    ],
)
def test_numbers_in_words(shown, text):
    assert shown == text


def test_labels_stand_apart():
    assert apart([10, 12, 50], 10, 0, 100) == [6, 16, 50]  # the two move by the same: 11 - 5 and 11 + 5
    assert apart([98, 99], 10, 0, 100) == [90, 100]
    assert apart([1, 0], 10, 0, 100) == [10, 0]


def test_figures_hold_their_numbers_as_text(tmp_path):
    run = read(tmp_path, {MT: {"base": alike(2, 4), "dpo": alike(4, 6)}})
    figure = figures.forest(run, run.table.benchmarks[0], series_of(run))
    assert figure.rows == (("dpo", "+2.00", "[+2.00, +2.00]", "p < 0.0001", "p < 0.0001"),)
    assert 'aria-label="dpo minus base: +2.00 [+2.00, +2.00], p &lt; 0.0001 after correction"' in figure.svg
    assert "var(--series-1)" in figure.svg and not re.search(r"<script|<style|href|url\(| style=", figure.svg)
    assert figures.budget(run).rows == (("dpo", "9.7 × 10¹¹", "9.7 × 10¹¹", "0"),)
    points = figures.scaling(run, run.table.benchmarks[0], series_of(run))
    assert points.rows[1][:3] == ("dpo", "9.7 × 10¹¹", "5.00")
    curve = training.curves(run, series_of(run)[1])
    assert dict((row[0], row[1:]) for row in curve.rows)["loss"] == ("1.000", "0.083")  # 1 and 1 / 12
    assert training.curves(run, series_of(run)[0]) is None  # base was not trained


def test_long_histories_are_shown_as_means_of_neighbours(tmp_path):
    run = read(tmp_path, {MT: {"base": alike(2, 4), "dpo": alike(4, 6)}})
    for seed in range(3):
        rows = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
        write(run.path / "arms" / f"dpo-seed{seed}" / "training" / "policy.jsonl", rows)
    figure = training.curves(run, series_of(run)[1])
    assert figure.rows == (("loss", "5.500", "995.500"),)  # of 1 to 10, and of 991 to 1000


def unpacked(block: samples.Block) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(block.data)))


def test_samples_are_all_there(tmp_path):
    values = {MT: {"base": [[2, None]], "dpo": [[4, 6]]}}
    (block,) = samples.blocks(read(tmp_path, values))
    content = unpacked(block)
    assert (block.questions, block.of, content["arms"]) == (2, 2, [["base", 0], ["dpo", 0]])
    base, dpo = content["answers"]
    assert [cell[:2] for cell in base] == [[2, 0], [None, 1]]  # without a verdict: open
    assert [cell[:2] for cell in dpo] == [[4, 0], [6, 0]]
    shown = [(content["texts"][label], content["texts"][text]) for kind, label, text in dpo[0][2] if kind != "f"]
    assert shown == [
        ("Answer, turn 1", "answer 1"),
        ("Judge, turn 1: rating 4", "judgment 1"),
        ("Answer, turn 2", "answer 2"),
        ("Judge, turn 2: rating 4", "judgment 2"),
    ]


def test_large_runs_keep_the_largest_differences(tmp_path):
    """The cap holds, each text being hard to compress; kept are those without a verdict and the largest differences."""
    generator = random.Random(0)

    def text(where: str) -> str:
        return where if where in ("judge", "part") else f"{where} {generator.randbytes(400).hex()}"

    base = [[5.0] * 38 + [None, 5.0]]
    dpo = [[5.0 + number / 100 for number in range(40)]]
    run = read(tmp_path, {MT: {"base": base, "dpo": dpo}}, text=text)
    whole = samples.blocks(run)[0]
    (block,) = samples.blocks(run, len(whole.data) // 4)
    kept = [question[0] for question in unpacked(block)["questions"]]
    assert len(block.data) <= len(whole.data) // 4
    assert block.of == 40 and 2 <= block.questions < 20
    assert kept == [str(number + 1) for number in range(40 - len(kept), 40)]  # question 39 has no verdict


def test_the_page_says_what_a_reader_asks(tmp_path):
    values = {MT: {"base": alike(2, 4), "dpo": alike(4, 6), "sso": alike(6, 8)}}
    values[MATH] = {"base": [[0, 100]] * 3, "dpo": [[0, None]] * 3, "sso": [[100, 100]] * 3}
    values["reward-bench"] = values["alpaca-eval"] = values[MATH]
    forge(tmp_path / "run", values)
    assert harness("report", "run", cwd=tmp_path).strip() == str(Path("run") / "report.html")
    text = (tmp_path / "run" / "report.html").read_text()
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    words = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
    for said in (
        *("testbed MT-Bench", "Testbed. These are scores of a small embedded model", "+4.00 over base", "by section"),
        *("by level", "Budget by role", "Every pair of methods", "9.7 × 10¹¹", "warning"),
        *("harness run --name run --method base,dpo,sso --benchmark", "--seeds 3 --budget 1e+12", "unparsed: dpo 3"),
    ):
        assert said in words, said
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r"(src|href)=\"?(https?:|//)|@import|url\(", text.split("<script", 1)[0])
    assert "Tuning trials" not in text


def test_trials_are_shown(tmp_path):
    forge(tmp_path / "run", {MT: {"base": alike(2, 4), "dpo": alike(4, 6)}})
    trial = {"method": "dpo", "fixed": [], "metric": "rating (1-10)", "judge": "j", "questions": 9, "missing": 1}
    trial |= {"unparsed": 2, "ledger": {"flops": 1.2e12}}
    rows = [
        trial | {"trial": 0, "options": {}, "score": 6.25, "chosen": True, "failed": None},
        trial | {"trial": 1, "options": {"beta": 0.12}, "score": None, "chosen": False, "failed": "diverged"},
    ]
    write(tmp_path / "run" / "tuning" / "trials.json", json.dumps({"trials": rows}))
    harness("report", "run", "-o", "page.html", cwd=tmp_path)
    section = (tmp_path / "page.html").read_text().split('id="tuning"', 1)[1].split("</section>")[0]
    assert all(
        said in section for said in ("6.25", "defaults", "beta 0.12", "failed: diverged", "1.2 × 10¹²", "chosen")
    )


def test_a_folder_is_not_replaced_by_the_page(tmp_path):
    forge(tmp_path / "run", {MT: {"base": alike(2, 4)}})
    kept = tmp_path / "folder" / "kept.txt"
    write(kept, "mine")
    told = harness("report", "run", "-o", "folder", cwd=tmp_path, code=2)
    assert "folder is a folder: name the file to write" in told and kept.read_text() == "mine"


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "is not a run folder" in harness("report", ".", cwd=tmp_path, code=2)


def test_the_command_gives_the_experiment_again():
    given = {"methods": ("sso", "low=sso"), "seeds": 3, "both_orders": True, "options": {"low": {"beta": 0.1}}}
    assert Experiment(**given).command == "harness run --method sso,low=sso --seeds 3 --both-orders --set low.beta=0.1"
