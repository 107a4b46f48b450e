"""Questions that are in the training texts: found, counted, and scored without."""

import json
import math

import pytest
from command_line import harness

from harness.benchmarks.base import Score
from harness.benchmarks.contamination import SAME_PASSAGE, SAME_TEXT, contaminated, texts_of, words

LONG = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen?"


@pytest.mark.parametrize(
    ("training", "found"),
    [
        (LONG, SAME_TEXT),
        ("one TWO three, four five six seven eight nine ten eleven twelve thirteen-fourteen", SAME_TEXT),
        ("So: two three four five six seven eight nine ten eleven twelve thirteen fourteen. Right.", SAME_PASSAGE),
        ("two three four five six seven eight nine ten eleven twelve thirteen", None),  # 12 words
        ("one two three four five six seven nine eight ten eleven twelve thirteen fourteen", None),
    ],
)
def test_a_question_is_found_by_its_text_or_13_words_in_a_row(training, found):
    assert contaminated({"q": [LONG]}, ["other", training]) == ({"q": found} if found else {})


def test_a_short_question_is_found_by_its_whole_text_alone():
    questions = {"a": ["What is 2+2?"], "b": ["今日は何曜日ですか"]}
    assert contaminated(questions, ["Tell me: what is 2+2?"]) == {}
    assert contaminated(questions, ["what is 2 + 2"]) == {"a": SAME_TEXT}
    assert contaminated({"a": ["Yes."]}, ["Yes."]) == {}
    assert contaminated(questions, ["今日は何曜日ですか?"]) == {"b": SAME_TEXT}
    assert len(words("今日は何曜日ですか")) == 9  # so that 13 characters are a passage


def test_a_form_that_many_questions_share_is_no_question():
    form = "Answer the following question in one word, and do not explain how you have found it"
    for number, expected in ((10, 10), (11, 0)):
        questions = {str(index): [f"{form}: number {index}"] for index in range(number)}
        assert len(contaminated(questions, [form])) == expected


def test_texts_of_rows_are_found_at_any_depth():
    row = {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": "So.",
        "ratings": [1.0, None],
        "more": {"a": ["b"]},
    }
    assert list(texts_of(row)) == ["user", "Why?", "So.", "b"]


def test_the_score_without_contaminated_questions_keeps_the_weights():
    values, weights = {"a": 0.0, "b": 100.0, "c": 50.0}, {"a": 1.0, "b": 1.0, "c": 3.0}
    score = Score("x", "%", 50.0, values, weights, 3, contaminated={"a": SAME_TEXT})
    assert score.clean() == (100 + 3 * 50) / 4
    assert math.isnan(Score("x", "%", 0.0, {"a": 0.0}, contaminated={"a": SAME_TEXT}).clean())


def test_a_run_on_its_own_questions_says_so(tmp_path):
    from harness.testbed.prompts import preferences
    from harness.testbed.suites import write_suites

    write_suites(tmp_path / "suites")
    file = next((tmp_path / "suites/math").glob("*.jsonl"))
    questions = [json.loads(line) for line in file.read_text().splitlines()]
    leaked = {row["problem"] for row in questions[:40]}
    pairs = preferences()[:64]
    rows = [{**pair.record, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    rows += [{"prompt": problem, "chosen": "The answer is 1.", "rejected": "The answer is 2."} for problem in leaked]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    harness(
        *("run", "--method", "dpo", "--benchmark", "math", "--budget", f"prompts={len(rows)}", "--name", "leak"),
        *("--preferences", "pairs.jsonl"),
        cwd=tmp_path,
    )
    folder = tmp_path / "results/runs/leak"
    score = json.loads((folder / "arms/dpo-seed0/scores/math.json").read_text())
    assert {score["contaminated"][each] for each in score["contaminated"]} == {SAME_TEXT}
    assert len(score["contaminated"]) == len(leaked)
    assert json.loads((folder / "arms/base-seed0/scores/math.json").read_text())["contaminated"] == {}
    kept = {name: value for name, value in score["values"].items() if name not in score["contaminated"]}
    mean = sum(kept.values()) / len(kept)
    note = f"{len(leaked)} of {score['questions']} questions are in the training texts of dpo"
    assert note in (folder / "table.md").read_text()
    assert f"on the others it scores {mean:.2f}, on all {score['value']:.2f}" in (folder / "table.md").read_text()
    assert "2 of 2 numbers verified" in harness("verify", "leak", cwd=tmp_path)
