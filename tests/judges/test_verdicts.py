"""The verdict parser, on real judge texts of which some are broken, and on the traps that public tools fell into."""

import math

import pytest

from baselines.self_rewarding import parse_score
from harness.benchmarks.files import read_rows
from harness.endpoints.base import JudgeReply
from harness.judges.shares import _example
from harness.judges.verdicts import choice_of, letter_logprobs, parse_choice, parse_rating, rating_of


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
        ("[[5]] would be far too kind. Rating: [[0]]", None),
        ("[[4]] ... [[11]]", None),
        ("[[3]] at first, then [[7/10]]", None),
        ("Rating: [[7.]]", 7),
        ("Rating: [[ 7 ]]", 7),
        ("<think>[[3]]?</think> Rating: [[7]]", 7),
        ("[[3]]?</think> Rating: [[7]]", 7),  # the prompt ends in <think>
        ("<think>[[3]] or [[4]]", None),
        ("<think>[[3]]</think> Rating: [[7]]\n<think>or [[4]]", None),
        ("[THINK][[3]][/THINK]Rating: [[7]]", 7),
        ("<|channel|>analysis<|message|>[[3]]<|end|><|start|>assistant<|channel|>final<|message|>[[7]]", 7),
        ("<|channel|>analysis<|message|>[[3]]", None),
        ('It writes "<think>" for no reason. Rating: [[7]]', 7),
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


@pytest.mark.parametrize(
    ("text", "choice"),
    [("[[A]]", "A"), ("[[A]] no: [[C]]", "tie"), ("[[A]] ... [[X]]", None), ("[[A]] ... [[Tie]]", None), ("A", None)],
)
def test_parse_choice(text, choice):
    assert parse_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "score"),
    [("Score: 3", 3), ("Score: 2. Score: **4**", 4), ("Score: 3, no. Score: 7", None), ("Score: 3. Score: 4.5", None),
     ("Score: -1", None), ("<think>Score: 2</think>Score: 3", 3), ("4", None)],
)  # fmt: skip
def test_scores_of_self_rewarding(text, score):
    assert parse_score(text) == score


def test_a_cut_or_failed_reply_has_no_verdict():
    for reason in ("length", "MAX_TOKENS", "content_filter"):
        assert rating_of(JudgeReply("1", "[[7]] or", finish_reason=reason)) is None
    assert choice_of(JudgeReply("1", "[[A]]", error="gone")) is None
    assert rating_of(JudgeReply("1", "[[7]]", finish_reason="stop")) == 7


def test_letters_have_half_of_the_probability_or_are_none():
    """log 0.5 = -0.6931, log 0.3 = -1.2040, log 0.2 = -1.6094."""
    assert letter_logprobs({"M": -1.2040, "m": -1.6094, "The": -0.7}, "mM") is None  # 0.29999 + 0.2
    assert letter_logprobs({"M": -0.1, "m": -2.5, " m": -3.0}, "mM") == {"M": -0.1, "m": -2.5}
    assert letter_logprobs({" M": -1.2040, "M": -1.6093, "\nm": -1.0}, "mM") == pytest.approx(
        {"M": -0.6931, "m": -1.0}, abs=1e-3
    )
    assert letter_logprobs({}, "mM") is letter_logprobs(None, "mM") is None


def test_letters_that_are_too_unlikely_are_named_with_their_probability():
    row = {"text": "M", "first_token": {"m": math.log(0.08), "M": math.log(0.1)}}
    told = _example(row)
    assert told.startswith("'M', whose first token is 'M' (probability 0.1; the letters need 0.5 together")
    assert letter_logprobs(row["first_token"], ("m", "M")) is None
    assert _example({"text": "I cannot say."}) == "'I cannot say.'"
