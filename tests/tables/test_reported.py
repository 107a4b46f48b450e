"""Published numbers: read with their sources, shown below the measured rows, compared with nothing."""

import dataclasses

import pytest
from paths import ROOT
from table_rows import row, score

from harness.errors import UserError
from harness.tables import to_json, to_markdown
from harness.tables.build import build
from harness.tables.reported import ALL, read

FILE = ROOT / "results" / "reported.yaml"


def test_the_kept_file():
    """The highest published numbers of the paper's abstract are best cells of different rows."""
    rows = read(FILE, ALL)
    assert {each.model for each in rows} >= {"Llama3-8B-SFT", "Qwen2-7B-SFT", "Llama3-8B-Instruct", "Qwen2-7B-Instruct"}
    assert all(each.source.startswith(("[P]", "[V1]")) for each in rows)
    best = {name: max(each.scores.get(name, 0) for each in rows) for name in ("gsm8k", "mmlu", "mt-bench", "math")}
    assert best == {"gsm8k": 84.7, "mmlu": 71.2, "mt-bench": 8.66, "math": 52.3}
    (sso,) = (each for each in read(FILE, "Llama3-8B-SFT") if (each.method, each.source) == ("sso", "[P] table 1"))
    assert (sso.scores["alpaca-eval-lc"], sso.scores["ifeval"]) == (35.0, 50.3)


def test_reported_rows_stand_below_and_change_nothing():
    measured = build([row("base", {"mt-bench": [score([5.0])]}), row("sso", {"mt-bench": [score([6.0])]})])
    table = dataclasses.replace(measured, reported=read(FILE, "Qwen2-7B-SFT"))
    plain, shown = to_markdown(measured).splitlines(), to_markdown(table).splitlines()
    added = [line for line in shown if "reported)" in line]
    assert len(added) == len(table.reported) == 7
    assert shown.index(added[0]) == plain.index("") and "8.66" in added[3] and "[P] table 1" in added[3]
    without = {key: value for key, value in to_json(table).items() if key != "reported"}
    assert without == {key: value for key, value in to_json(measured).items() if key != "reported"}
    assert "not ranked" in shown[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: 3", "a list of mappings"),
        ("rows: [{model: m}]", "row 1: lacks method"),
        ("rows: [{model: m, method: x, base_loss: dpo, source: s, scores: {a: high}}]", "score of 'a' is not a number"),
        ("rows: [{model: m, method: x, base_loss: dpo, source: s, scores: {}, extra: 1}]", "extra"),
        ("rows: [{model: m, method: x, base_loss: dpo, source: s, scores: {a: 1}}]", "known: m"),
    ],
)
def test_bad_files_are_told(tmp_path, text, said):
    file = tmp_path / "reported.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read(file, "n")
