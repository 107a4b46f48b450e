"""The verdict parser, on real judge texts of which some are broken, and on the traps that public tools fell into."""

import pytest

from harness.benchmarks.files import read_rows
from harness.judges.verdicts import parse_rating


def test_malformed_ratings(data_dir):
    rows = read_rows(data_dir / "judge_transcripts" / "malformed_single_ratings.jsonl", judgment=str)
    assert len(rows) == 44
    for row in rows:
        whole = [float(hit) for hit in row["double_bracket_hits"]]  # recorded with the data
        assert parse_rating(row["judgment"]) == (whole[-1] if whole else None), row["question_id"]
    assert sum(bool(row["double_bracket_hits"]) for row in rows) == 4  # [[9.5]] and [[7.5]]; the others have no verdict


def test_recorded_ratings(data_dir):
    """On FastChat's own rows the verdict is the recorded one, -1 standing for none."""
    rows = [
        row
        for path in sorted((data_dir / "mt_bench" / "model_judgment").glob("*.jsonl.gz"))
        for row in read_rows(path, judgment=str)
    ]
    assert len(rows) == 650
    for row in rows:
        rating = parse_rating(row["judgment"])
        assert (-1 if rating is None else rating) == row["score"], (row["model"], row["question_id"], row["turn"])


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[7]]", 7),
        ("Rating: [[9.5]]", 9.5),
        ("As said in [1], it is good. Rating: 8", None),
        ("As said in [1], it is good. Rating: [[8]]", 8),
        ("[[10]] would be perfect, but this is [[3]]", 3),
        ("Rating: [[3]]. The scale ends at [[10", 3),
        ("Rating: [[1", None),
        ("Rating: [[1]", None),
        ("Rating: [1]]", None),
        ("8/10.", None),
        ("Rating: [[]]", None),
        ("Rating: [[rating]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        ("Rating: [[-1]]", None),
        ("Rating: [[100]], no: [[10]]", 10),
        ("Rating: [[5]] of at most [[100]]", None),
        ("Rating: [[\u0663]]", None),
        ("Rating: [[1e1]]", None),
        ("Rating: [[nan]] [[inf]]", None),
        ("$ERROR$", None),
        ("", None),
    ],
)
def test_parse_rating(text, rating):
    assert parse_rating(text) == rating


def test_long_texts_take_no_time():
    """Digits without an end are no trap for the pattern."""
    assert parse_rating("[[" + "1" * 100_000) is None
    assert parse_rating("[[" * 50_000 + "4]]") == 4
    assert parse_rating("[[" + "9" * 1000 + "]]") is None
