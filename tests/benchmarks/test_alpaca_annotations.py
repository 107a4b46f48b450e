"""AlpacaEval annotations that exist already: the leaderboard's numbers, and difficulties in any order and number."""

import csv
import gzip
import json
import math
import random

import pytest

from harness.benchmarks.alpaca_annotations import read_preference, score_annotations
from harness.benchmarks.alpaca_win_rates import ALL, official_index
from harness.benchmarks.files import read_rows
from harness.errors import UserError

MODELS = (
    "FuseChat-Llama-3.1-8B-Instruct",
    "NullModel",
    "OpenHermes-2.5-Mistral-7B",
    "claude-2.1",
    "gpt-3.5-turbo-1106",
    "vicuna-7b-v1.5",
)


@pytest.fixture(scope="module")
def folder(data_dir):
    return data_dir / "alpaca_eval"


@pytest.fixture(scope="module")
def gamed(folder):
    return folder / "df_gamed_reconstructed.csv"


@pytest.fixture(scope="module")
def leaderboard(folder):
    with open(folder / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv", encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


def annotations(folder, model):
    return folder / "annotations" / f"{model}.json.gz"


def write(tmp_path, rows):
    path = tmp_path / "annotations.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


def test_the_official_order(folder):
    rows = read_rows(folder / "reference_gpt4_1106_preview_model_outputs.json.gz", instruction=str)
    assert [official_index(row["instruction"]) for row in rows] == list(range(ALL))
    assert official_index("What is this?") is None


@pytest.mark.parametrize("model", MODELS)
def test_leaderboard(folder, gamed, leaderboard, model):
    """Raw to 1e-6; length-controlled within the 0.2 points that the rebuilt df_gamed file allows (data/README.md)."""
    found = score_annotations(annotations(folder, model), df_gamed=gamed)
    known = leaderboard[model]
    assert found["win_rate"] == pytest.approx(float(known["win_rate"]), abs=1e-6)
    assert found["standard_error"] == pytest.approx(float(known["standard_error"]), abs=1e-6)
    controlled = float(known["length_controlled_winrate"])
    assert found["length_controlled_win_rate"] == pytest.approx(controlled, abs=0.2)
    assert int(found["average_length"]) == int(known["avg_length"])
    low, high = found["interval"]
    assert low < controlled < high and found["interval_of"] == "length_controlled_win_rate"
    if known["lc_standard_error"]:  # ours has the uncertainty of the fit too
        assert high - low > 2 * 1.96 * float(known["lc_standard_error"])
    assert (found["n"], found["missing"]) == (805, 0)


@pytest.mark.parametrize("model", [*MODELS[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[2:])])
def test_preferences_from_log_probabilities(folder, tmp_path, model):
    """The recorded preference on every row that has them: it takes GPT-4's order of each pair, and its two letters."""
    rows = read_rows(annotations(folder, model), instruction=str)
    lacking = sum(each.get("raw_completion") is None and each["output_1"] != each["output_2"] for each in rows)
    again = score_annotations(annotations(folder, model), from_logprobs=True)
    assert (again["without_logprobs"], again["n"], again["differing"]) == (lacking, 805 - lacking, 0)
    recorded = score_annotations(annotations(folder, model))
    if not lacking:
        assert again["win_rate"] == pytest.approx(recorded["win_rate"], abs=1e-8)
    part = random.Random(5).sample(rows, 200)
    lacking = sum(each.get("raw_completion") is None and each["output_1"] != each["output_2"] for each in part)
    if lacking < 200:
        found = score_annotations(write(tmp_path, part), from_logprobs=True)
        assert (found["n"], found["differing"]) == (200 - lacking, 0)


def test_a_recorded_preference_that_is_another_counts(folder, tmp_path):
    rows = read_rows(annotations(folder, "claude-2.1"), instruction=str)
    wrong = [each for each in rows if abs(each["preference"] - 1.5) > 0.1][:7]
    for each in wrong:
        each["preference"] = 3 - each["preference"]
    assert score_annotations(write(tmp_path, rows), from_logprobs=True)["differing"] == 7


def test_order_and_number_of_rows_change_no_difficulty(folder, gamed, tmp_path):
    """The trap: the package joins difficulties by a row's position."""
    rows = read_rows(annotations(folder, "claude-2.1"), instruction=str)
    whole = score_annotations(annotations(folder, "claude-2.1"), df_gamed=gamed)
    shuffled = random.Random(3).sample(rows, len(rows))
    found = score_annotations(write(tmp_path, shuffled), df_gamed=gamed)
    for name in ("win_rate", "length_controlled_win_rate"):
        assert found[name] == pytest.approx(whole[name], abs=1e-9)
    assert found["interval"] == pytest.approx(whole["interval"], abs=1e-9)
    partial = score_annotations(write(tmp_path, shuffled[:700] + shuffled[:10]), df_gamed=gamed)
    assert (partial["n"], partial["missing"], partial["duplicates"]) == (700, 105, 10)
    assert partial["length_controlled_win_rate"] == pytest.approx(whole["length_controlled_win_rate"], abs=2)
    same = score_annotations(write(tmp_path, sorted(shuffled[:700], key=json.dumps)), df_gamed=gamed)
    assert same["length_controlled_win_rate"] == pytest.approx(partial["length_controlled_win_rate"], abs=1e-9)


def test_null_preferences_are_counted(folder, gamed, tmp_path):
    rows = read_rows(annotations(folder, "vicuna-7b-v1.5"), instruction=str)
    for row in rows[:4]:
        row["preference"] = None
    found = score_annotations(write(tmp_path, rows), df_gamed=gamed)
    assert (found["n"], found["unparsed"], found["missing"]) == (801, 4, 4)
    assert found["length_controlled_win_rate"] == pytest.approx(7.6, abs=0.3)


def test_the_first_row_with_a_preference_counts(tmp_path):
    rows = [row(1, None), row(2, 1), row(1, 2), row(1, 1), row(2, None)]
    found = score_annotations(write(tmp_path, rows))
    assert (found["win_rate"], found["n"], found["unparsed"], found["duplicates"]) == (50, 2, 0, 3)


def row(number, preference=1.5, **rest):
    outputs = {"output_1": "a" * number, "output_2": "b" * (2 * number), "generator_1": "r", "generator_2": "m"}
    return {"instruction": f"question {number}", "preference": preference, "annotator": "j", **outputs, **rest}


def test_instructions_of_one_s_own(tmp_path, gamed):
    """By hand: preferences 1, 2 and a tie are 0, 100 and 50 percent; lengths 2, 4 and 6."""
    found = score_annotations(write(tmp_path, [row(1, 1), row(2, 2), row(3, 0)]), df_gamed=gamed)
    assert (found["win_rate"], found["average_length"], found["n"], found["missing"]) == (50, 4, 3, 805)
    assert found["standard_error"] == pytest.approx(50 / math.sqrt(3))
    assert found["length_controlled_win_rate"] is None and found["interval_of"] == "win_rate"
    assert found["length_controlled_reason"] == "3 instructions are not among the official 805"
    assert found["interval"] == found["win_rate_interval"]
    assert 0 <= found["interval"][0] < 50 < found["interval"][1] <= 100
    json.dumps(found, allow_nan=False)


def test_one_row_has_no_standard_error(tmp_path):
    found = score_annotations(write(tmp_path, [row(1, 2)]))
    assert (found["win_rate"], found["standard_error"]) == (100, None)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1), row(2, generator_2="other")], "several generator_2s \\(m, other\\)"),
        ([row(1), row(2, annotator="k")], "several annotators"),
        ([row(1, 3)], "entry 1: preference must be from 1 to 2"),
        ([row(1, "2")], "entry 1: preference must be"),
        ([row(1, None)], "no row has a preference"),
        ([{"instruction": "a", "output_1": "b", "output_2": "c"}], "entry 1: field 'preference' is missing"),
        ([row(1), row(2, output_2="\ud800")], "entry 2: field 'output_2' is not Unicode text"),
        ([{"instruction": "a"}], "entry 1: field 'output_1'"),
    ],
)
def test_faulty_files(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        score_annotations(write(tmp_path, rows))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "index,model\n", "\x00\xff", ""])
def test_faulty_df_gamed(tmp_path, text, folder):
    path = tmp_path / "df_gamed.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="df_gamed.csv"):
        score_annotations(annotations(folder, "claude-2.1"), df_gamed=path)


@pytest.mark.parametrize(("value", "preference"), [(1, 1), (2.0, 2), (0, 1.5), (0.0, 1.5), (None, None), (1.5, 1.5)])
def test_read_preference(value, preference):
    assert read_preference("x", value) == preference
