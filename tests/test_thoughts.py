"""Thoughts taken off texts: the forms of families of models, and texts that only look like them."""

import json

import pytest

from harness import runner
from harness.errors import UserError
from harness.experiment import Experiment
from harness.thoughts import MARKS, Split, opens_thought, parse_marks, split_thought

HARMONY = (
    "<|channel|>analysis<|message|>16 - 7 = 9.<|end|><|start|>assistant<|channel|>final<|message|>It is 18.<|return|>"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 18.", Split(None, "It is 18.")),
        (" It is 18. ", Split(None, " It is 18. ")),
        ("<think>\n9?\n</think>\n\nIt is 18.", Split("9?", "It is 18.")),
        ("<THINK>9?</THINK>It is 18.", Split("9?", "It is 18.")),
        ("9 or 18?\n</think>\n\nIt is 18.", Split("9 or 18?", "It is 18.")),  # opened in the prompt
        ("<think>9, then 18", Split("9, then 18", "", False)),
        ("It is 18. <think>Or 9?", Split("Or 9?", "", False)),
        ("<think></think>It is 18.", Split("", "It is 18.")),
        ("<think>a</think>It is <think>b</think>18.", Split("a\nb", "It is 18.")),
        ("<think>a <think> b</think>It is 18.", Split("a <think> b", "It is 18.")),
        ("<think>a<think>b</think>c</think>It is 18.", Split("a<think>b\nc", "It is 18.")),
        ("<thinking>9?</thinking>It is 18.", Split("9?", "It is 18.")),
        ("<reasoning>a</think>b</reasoning>18", Split("a</think>b", "18")),
        ("[THINK]9?[/THINK]It is 18.", Split("9?", "It is 18.")),
        ("◁think▷9?◁/think▷18", Split("9?", "18")),
        (
            "<|begin_of_thought|>9<|end_of_thought|>\n<|begin_of_solution|>18<|end_of_solution|>",
            Split("9", "18"),
        ),
        ("The tag `<think>` opens a thought.", Split(None, "The tag `<think>` opens a thought.")),
        (HARMONY, Split("16 - 7 = 9.", "It is 18.")),
        (HARMONY.partition("<|end|>")[0], Split("16 - 7 = 9.", "", False)),
        ("analysis16 - 7 = 9.assistantfinalIt is 18.", Split("16 - 7 = 9.", "It is 18.")),
        ("analysisWe need to sell", Split("We need to sell", "", False)),
        ("analysis of the eggs: 18", Split(None, "analysis of the eggs: 18")),
    ],
)
def test_split_thought(text, expected):
    assert split_thought(text) == expected


def test_a_thought_that_the_prompt_opened():
    assert split_thought("9, then", opened=True) == Split("9, then", "", False)
    assert split_thought("9</think>18", opened=True) == Split("9", "18")
    assert opens_thought("<|assistant|><think>\n") and not opens_thought("<think>\n\n</think>\n\n")


def test_marks_of_ones_own():
    marks = parse_marks("<<plan>> <</plan>> [A] [B]")
    assert split_thought("<<plan>>9<</plan>>18", marks) == Split("9", "18")
    assert split_thought("<think>9</think>18", marks).thought is None
    assert parse_marks("none") == () and split_thought("<think>9", ()) == Split(None, "<think>9")
    assert parse_marks(None) == MARKS
    for wrong in ("", "<think>", "a b c", "a a"):
        with pytest.raises(UserError, match="thought marks .* are not understood"):
            parse_marks(wrong)


def test_long_texts_take_no_time():
    for text in ("<think>" * 100_000, "</think>" * 100_000, "`" * 200_000, "<|channel|>" * 50_000):
        split_thought(text)


def test_thoughts_of_training_data_are_taken_off_in_a_run(testbed_model_dir, tmp_path):
    """The embedded model says "There are many things to say about this." before some answers: its thought, here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)
    experiment = Experiment(
        methods=("pbaa",), budget="prompts=40", benchmarks=("math",), limit=2, thought_marks="There this."
    )
    runner.run(experiment, tmp_path)
    (arm,) = tmp_path.glob("**/arms/pbaa-seed0")
    rows = [json.loads(line) for line in (arm / "preferences" / "policy.jsonl").read_text().splitlines()]
    health = json.loads((arm / "health" / "policy.json").read_text())
    taken = health["events"]["thoughts taken off"]
    assert taken > 0
    assert health["events"]["tokens of thoughts"] == taken * len(tokenizer.tokenize("are many things to say about"))
    for row in rows:
        replies = [row["chosen"], row["rejected"]]
        assert not any("There" in reply for reply in replies)
        trained = [each["completion_ids"] for each in row["sequences"]]
        assert trained == [tokenizer(f"{reply}<|end|>", add_special_tokens=False)["input_ids"] for reply in replies]
