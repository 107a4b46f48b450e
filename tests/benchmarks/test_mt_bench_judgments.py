"""Scores of FastChat's judgment rows: the published means, and the traps of files that exist already."""

import gzip
import json
import math

import pytest

from harness.benchmarks.files import read_rows
from harness.benchmarks.mt_bench_judgments import official_categories, score_judgments
from harness.errors import UserError


def row(question=81, turn=1, score=7, text="Rating: [[7]]", model="m", **rest) -> dict:
    judge = ["gpt-4", "single-v1"]
    return {
        "question_id": question, "turn": turn, "score": score, "judgment": text, "model": model, "judge": judge, **rest
    }  # fmt: skip


def write(tmp_path, *rows, name="gpt-4_single.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_published_means(data_dir):
    """Means over both turns without -1, as recomputed from the files of the data folder (data/README.md)."""
    folder = data_dir / "mt_bench" / "model_judgment"
    models = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        for reparse in (False, True):
            found = score_judgments(path, reparse=reparse)["models"]
            models.setdefault(reparse, {}).update(found)
    for found in models.values():
        scores = {name.lower(): model["score"] for name, model in found.items()}
        for part, mean in (
            ("claude-3-5-sonnet", 9.2063),
            ("claude-3-opus", 8.675),
            ("instruct-normal", 7.8434),
            ("griffin", 2.70),
        ):
            (score,) = (score for name, score in scores.items() if part in name)
            assert score == pytest.approx(mean, abs=5e-5)
    (llama,) = (model for name, model in models[False].items() if "Normal" in name)
    assert (llama["unparsed"], llama["duplicates"]) == (4, 10)  # 4 rows "$ERROR$", 10 keys twice (data/README.md)


def test_categories_are_those_of_the_official_questions(data_dir):
    rows = read_rows(data_dir / "mt_bench" / "question.jsonl", question_id=int, category=str)
    assert official_categories() == {each["question_id"]: each["category"] for each in rows}


def test_every_row_with_a_verdict_counts(tmp_path):
    path = write(
        tmp_path,
        row(81, 1, 8), row(81, 1, 6), row(81, 2, 3), row(82, 1, -1), row(82, 2, None), row(101, 1, 10), model_row(2),
    )  # fmt: skip
    models = score_judgments(path)["models"]
    assert models["m"] == {
        "score": 27 / 4,
        "turn_1": 8.0,
        "turn_2": 3.0,
        "categories": {"reasoning": 10.0, "writing": 17 / 3},
        "judged": 4,
        "unparsed": 2,
        "duplicates": 1,
        "missing": 160 - 5,
    }
    assert models["other"]["turn_1"] is None and models["other"]["score"] == 2


def model_row(score):
    return row(81, 2, score, model="other")


def test_reparse_reads_the_last_whole_verdict(tmp_path):
    texts = {  # the stored score is what public parsers make of it
        "as in [1], good. Rating: 8": 1,
        "[[10]] would be perfect; this is [[3]]": 10,
        "Rating: [[4]]": -1,
        "Rating: [[5": 5,
    }
    rows = [row(81 + index, score=score, text=text) for index, (text, score) in enumerate(texts.items())]
    path = write(tmp_path, *rows)
    assert score_judgments(path)["models"]["m"]["score"] == pytest.approx(16 / 3)
    again = score_judgments(path, reparse=True)["models"]["m"]
    assert (again["score"], again["judged"], again["unparsed"]) == (3.5, 2, 2)


def test_nothing_judged_is_none_and_never_zero(tmp_path):
    model = score_judgments(write(tmp_path, row(score=-1)))["models"]["m"]
    assert model["score"] is None and model["categories"] == {} and model["unparsed"] == 1
    json.dumps(model, allow_nan=False)


def test_gzip_and_questions_of_one_s_own(tmp_path):
    questions = write(tmp_path, {"question_id": 7, "category": "mine"}, name="question.jsonl")
    path = tmp_path / "judgments.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row(7, 2, 9.5)).encode()))
    model = score_judgments(path, questions=questions)["models"]["m"]
    assert (model["categories"], model["missing"]) == ({"mine": 9.5}, 1)
    assert score_judgments(path)["models"]["m"]["categories"] == {"unknown": 9.5}
    assert score_judgments(path)["models"]["m"]["missing"] is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(), row() | {"judge": ["gpt-4o", "single-v1"]}], "several judges \\(gpt-4, gpt-4o\\)"),
        ([row(), row(score="7")], ":2: field 'score' must be a number"),
        ([row(), row(turn=3)], ":2: turn must be 1 or 2"),
        ([row(score=42)], ":1: score must lie within"),
        ([row() | {"model_1": "a", "model_2": "b"}], "comparison of two models"),
        ([{"question_id": 81, "turn": 1, "score": 3}], "field 'model'"),
        ([row(score=math.inf)], ":1: field score is not a finite number"),
        ([row(score=True)], "must be a number"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        score_judgments(write(tmp_path, *rows))
