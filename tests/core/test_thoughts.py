"""Thoughts taken off texts: the forms of families of models, and texts that only look like them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from chat_families import FAMILIES

from harness.engines.answering import AnsweringEngine, answer_of, split_completion, thought_tokens
from harness.engines.base import Completion, Sampling
from harness.engines.chat import ChatTemplate
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs import run as runner
from harness.thoughts import MARKS, ThoughtSplit, opens_thought, parse_marks, split_thought

HARMONY = (
    "<|channel|>analysis<|message|>16 - 7 = 9.<|end|><|start|>assistant<|channel|>final<|message|>It is 18.<|return|>"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 18.", ThoughtSplit(None, "It is 18.")),
        (" It is 18. ", ThoughtSplit(None, " It is 18. ")),
        ("<think>\n9?\n</think>\n\nIt is 18.", ThoughtSplit("9?", "It is 18.")),
        ("<THINK>9?</THINK>It is 18.", ThoughtSplit("9?", "It is 18.")),
        ("9 or 18?\n</think>\n\nIt is 18.", ThoughtSplit("9 or 18?", "It is 18.")),  # opened in the prompt
        ("<think>9, then 18", ThoughtSplit("9, then 18", "", False)),
        ("It is 18. <think>Or 9?", ThoughtSplit("Or 9?", "", False)),
        ("<think></think>It is 18.", ThoughtSplit("", "It is 18.")),
        ("<think>a</think>It is <think>b</think>18.", ThoughtSplit("a\nb", "It is 18.")),
        ("<think>a <think> b</think>It is 18.", ThoughtSplit("a <think> b", "It is 18.")),
        ("<think>a<think>b</think>c</think>It is 18.", ThoughtSplit("a<think>b\nc", "It is 18.")),
        ("<thinking>9?</thinking>It is 18.", ThoughtSplit("9?", "It is 18.")),
        ("<reasoning>a</think>b</reasoning>18", ThoughtSplit("a</think>b", "18")),
        ("[THINK]9?[/THINK]It is 18.", ThoughtSplit("9?", "It is 18.")),
        ("◁think▷9?◁/think▷18", ThoughtSplit("9?", "18")),
        (
            "<|begin_of_thought|>9<|end_of_thought|>\n<|begin_of_solution|>18<|end_of_solution|>",
            ThoughtSplit("9", "18"),
        ),
        ("The tag `<think>` opens a thought.", ThoughtSplit(None, "The tag `<think>` opens a thought.")),
        (HARMONY, ThoughtSplit("16 - 7 = 9.", "It is 18.")),
        (HARMONY.partition("<|end|>")[0], ThoughtSplit("16 - 7 = 9.", "", False)),
        ("analysis16 - 7 = 9.assistantfinalIt is 18.", ThoughtSplit("16 - 7 = 9.", "It is 18.")),
        ("analysisWe need to sell", ThoughtSplit("We need to sell", "", False)),
        ("analysis of the eggs: 18", ThoughtSplit(None, "analysis of the eggs: 18")),
    ],
)
def test_split_thought(text, expected):
    assert split_thought(text) == expected


def test_a_thought_that_the_prompt_opened():
    assert split_thought("9, then", opened=True) == ThoughtSplit("9, then", "", False)
    assert split_thought("9</think>18", opened=True) == ThoughtSplit("9", "18")
    assert opens_thought("<|assistant|><think>\n") and not opens_thought("<think>\n\n</think>\n\n")


def test_marks_of_ones_own():
    marks = parse_marks("<<plan>> <</plan>> [A] [B]")
    assert split_thought("<<plan>>9<</plan>>18", marks) == ThoughtSplit("9", "18")
    assert split_thought("<think>9</think>18", marks).thought is None
    assert parse_marks("none") == () and split_thought("<think>9", ()) == ThoughtSplit(None, "<think>9")
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
    ledger = json.loads((arm / "ledger.json").read_text())["roles"]["generate"]
    assert ledger["thought_tokens"] == taken * len(tokenizer.tokenize("are many things to say about"))
    for row in rows:
        replies = [row["chosen"], row["rejected"]]
        assert not any("There" in reply for reply in replies)
        trained = [each["completion_ids"] for each in row["sequences"]]
        assert trained == [tokenizer(f"{reply}<|end|>", add_special_tokens=False)["input_ids"] for reply in replies]


THINKERS = {  # what a family's model writes after the prompt
    "deepseek-r1": "9?\n</think>\n\nIt is 18.<eos>",  # the template opens the thought
    "qwen3": "<think>\n9?\n</think>\n\nIt is 18.<|im_end|>",
    "gpt-oss": HARMONY.replace("16 - 7 = 9.", "9?"),
    "magistral": "[THINK]9?[/THINK]It is 18.</s>",
}


@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_between_tokens_of_a_family(name):
    """Marks may be text, added tokens, or special tokens that decoding leaves out."""
    split, _, answer = read_by(name, THINKERS[name])
    assert (split.thought, answer.text, answer.finished) == ("9?", "It is 18.", True)
    assert thought_tokens(engine_of(name), split) == len(engine_of(name).chat.tokenizer.tokenize("9?"))


@pytest.mark.parametrize("name", THINKERS)
def test_a_thought_of_a_family_that_does_not_end(name):
    text = THINKERS[name]
    end = min(place for mark in ("</think>", "[/THINK]", "<|end|>") if (place := text.find(mark)) >= 0)
    split, completion, answer = read_by(name, text[:end])
    assert (split.finished, answer.text, answer.finished) == (False, "", False)
    assert answer.token_ids == completion.token_ids


@pytest.mark.parametrize("name", ["phi-3", "llama-3", "gemma", "mistral-tekken"])
def test_an_answer_of_a_family_without_thoughts_stays_as_it_is(name):
    _, completion, answer = read_by(name, "It is 18." + FAMILIES[name].eos)
    assert answer == completion


def engine_of(name):
    """All that thoughts are read by: a tokenizer and its template."""
    if name == "magistral":
        family = FAMILIES["mistral-tekken"]
        family = replace(family, special=(*family.special, "[THINK]", "[/THINK]"))
    else:
        family = FAMILIES[name]
    tokenizer = family.tokenizer()
    return SimpleNamespace(chat=ChatTemplate(tokenizer, [tokenizer.eos_token_id], name))


def read_by(name, text):
    """The split, the completion as an engine gives it, and the answer that is left of it."""
    engine = engine_of(name)
    tokenizer = engine.chat.tokenizer
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    finished = ids[-1] == tokenizer.eos_token_id
    completion = Completion(ids, tokenizer.decode(ids, skip_special_tokens=True), finished)
    prompt = engine.chat.encode([{"role": "user", "content": "What is 9 and 9?"}])
    split = split_completion(engine, prompt, completion, MARKS)
    return split, completion, answer_of(completion, split)


class StopsAnywhere:
    """An engine that ends where a text of two answers has a stop, thought or not."""

    chat = None

    def generate(self, prompts, items, sampling, advance=None):
        whole = ["It is 18.\n\nNext question", "<think>9?\n\nYes.</think>It is 18.\n\nNext"]
        texts = [whole[prompt[0]] for prompt in prompts]
        for stop in sampling.stop:
            texts = [text[: text.find(stop) + len(stop)] if stop in text else text for text in texts]
        return [Completion((1,), text, True) for text in texts]


def test_a_stop_inside_a_thought_ends_nothing():
    sampling = Sampling(9, stop=("\n\n",))
    short, thinking = AnsweringEngine(StopsAnywhere(), MARKS).generate([(0,), (1,)], ["a", "b"], sampling)
    assert (short.text, short.thought) == ("It is 18.\n\n", None)
    assert (thinking.text, thinking.thought) == ("It is 18.\n\nNext", "9?\n\nYes.")
