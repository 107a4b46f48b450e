"""Rows that the model's context can not hold: counted when they are read, left out, told in the line of the others."""

import json
import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs.inputs import load_prompts
from harness.stages.fitting import prompts_that_fit
from harness.types import Prompt

# the tiny model holds 512 tokens, a byte each; its template writes <|user|>, <|end|> and <|assistant|> around a prompt
LONGEST = 512 - 3 - 1  # bytes of a prompt that leaves room for one token


def ask(text: str, *completions: str) -> Prompt:
    return Prompt(f"p-{len(text)}-{completions}", ({"role": "user", "content": text},), *completions)


@pytest.mark.parametrize(
    ("prompt", "labelled", "fits"),
    [
        (ask("x" * LONGEST), False, True),
        (ask("x" * (LONGEST + 1)), False, False),
        (ask("é" * (LONGEST // 2)), False, True),
        (ask("é" * (LONGEST // 2 + 1)), False, False),
        (ask("x" * 108, "y" * 400, "n"), True, True),  # 111 + 400 and the stop token
        (ask("x" * 109, "y" * 400, "n"), True, False),
        (ask("x" * 109, "y", "n" * 400), True, False),
        (ask("x" * 109, "y" * 400, "n"), False, True),  # a prompt alone
    ],
)
def test_what_fits_is_what_the_engine_can_read(tiny_model_dir, prompt, labelled, fits):
    short = ask("short", "a", "b")
    assert prompts_that_fit([prompt, short], tiny_model_dir, labelled) == ([prompt, short] if fits else [short])


def test_the_engine_refuses_what_does_not_fit(tiny_model_dir):
    from harness.engines.base import Sampling
    from harness.engines.transformers import TransformersEngine

    engine = TransformersEngine.load(tiny_model_dir, "cpu")
    longest, longer = (engine.encode_chat(ask("x" * size).messages) for size in (LONGEST, LONGEST + 1))
    assert len(engine.generate([longest], ["a"], Sampling(5))[0].token_ids) == 1
    with pytest.raises(UserError, match="shorten it"):
        engine.generate([longer], ["b"], Sampling(5))


def test_short_rows_are_not_tokenized(tiny_model_dir):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from harness.stages.fitting import prompts_that_fit\nfrom harness.methods.base import Prompt\n"
        "rows = [Prompt(str(i), ({'role': 'user', 'content': 'x' * 200},)) for i in range(9)]\n"
        "assert prompts_that_fit(rows, Path(sys.argv[1])) == rows\nassert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tiny_model_dir], check=True)


def test_a_context_with_another_name_is_found(tiny_model_dir, tmp_path):
    """As of GPT-2, whose config.json says n_positions."""
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 64}))
    fits, too_long = ask("x" * 60), ask("x" * 61)
    assert prompts_that_fit([too_long, fits], tmp_path) == [fits]


def test_rows_that_are_left_out_are_told_in_one_line(tiny_model_dir, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    texts = ["Why?", "Why?", " ", "x" * 600, "How?"]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    experiment = Experiment(model=str(tiny_model_dir), prompts=str(path))
    for _ in range(2):
        prompts, _ = load_prompts(experiment)
        assert [prompt.messages[0]["content"] for prompt in prompts] == ["Why?", "How?"]
        assert [prompt.id for prompt in prompts] == ["rows-0", "rows-2"]
    assert capsys.readouterr().err == (
        f"{path}: 2 prompts, rows left out: 1 duplicate, 1 empty, 1 too long for the model\n"
    )


def test_a_file_of_which_nothing_fits(tiny_model_dir, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "chosen": "y" * 600, "rejected": "n"}))
    assert len(load_prompts(Experiment(model=str(tiny_model_dir), prompts=str(path)))[0]) == 1
    with pytest.raises(UserError, match=r"rows\.jsonl: all 1 prompts are too long for the context of"):
        load_prompts(Experiment(model=str(tiny_model_dir), preferences=str(path)))
