"""Real rows and chat templates through the front door: what a run writes that it trained on, and what it refuses."""

import json
import re
from datetime import date

import pytest
import torch
from chat_families import FAMILIES, model_folder
from chat_messages import SYSTEM, assistant, user
from trl_rows import BEGUN, CALL, PAIR, TOOL, trl_ids
from typer.testing import CliRunner

from harness.cli import app
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs import run as runner

RAIN = {"role": "tool", "content": "rain"}
TURNS = [assistant("Paris."), user("And a river there?"), assistant("The Seine.")]
ROWS = {
    "a question": {"prompt": [user("What colour is the sky?")], **PAIR},
    "texts": {"prompt": "What colour?", "chosen": "Blue.", "rejected": "Green."},
    "replies of several turns": {"prompt": [user("Name a city")], "chosen": TURNS, "rejected": [assistant("Potato.")]},
    "a system column": {"system": "In French.", "question": "Name a colour", "chosen": "Bleu.", "rejected": "A"},
    "an answer that is begun": BEGUN | PAIR,
    "tools": {"prompt": [user("Rain?")], "tools": [TOOL], **PAIR},
    "a call": {"prompt": [user("Rain?"), {**assistant(None), "tool_calls": [CALL]}, RAIN], **PAIR},
}
AS_TRL_READS = {  # rows whose form TRL does not know
    "texts": {"prompt": [user("What colour?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]},
    "a system column": {
        "prompt": [{**SYSTEM, "content": "In French."}, user("Name a colour")],
        "chosen": [assistant("Bleu.")],
        "rejected": [assistant("A")],
    },
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def experiment(folder, rows, **options) -> Experiment:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (folder / "model").exists():
        model_folder(options.pop("family"), folder / "model")
    options.pop("family", None)
    chosen = {"methods": ("dpo",), "benchmarks": ("math",), "limit": 2, "budget": "updates=1", "answer_tokens": 4}
    own = {"model": str(folder / "model"), "preferences": str(file), "options": {"dpo": {"batch_size": 1}}}
    return Experiment(name="rows", **chosen | own | options)


def trained_on(folder) -> dict:
    lines = (folder / "runs" / "rows" / "arms" / "dpo-seed0" / "preferences" / "policy.jsonl").read_text().splitlines()
    return json.loads(lines[0])


@pytest.mark.parametrize(
    ("family", "row"),
    [
        *(("deepseek-r1", "a question"), ("gpt-oss", "a question"), ("qwen3", "texts"), ("llama-2", "a question")),
        *(("chatml whose turn end is not EOS", "replies of several turns"), ("zephyr", "a system column")),
        *(("chatml", "an answer that is begun"), ("qwen2.5", "tools"), ("qwen2.5", "a call")),
    ],
)
def test_a_run_trains_on_what_trl_would(family, row, tmp_path):
    runner.run(experiment(tmp_path, [ROWS[row]], family=family), tmp_path)
    example = trained_on(tmp_path)
    expected = trl_ids(FAMILIES[family].tokenizer(), AS_TRL_READS.get(row, ROWS[row]))
    chosen, rejected = example["sequences"]
    assert chosen["prompt_ids"] == rejected["prompt_ids"] == expected[0]
    assert (chosen["completion_ids"], rejected["completion_ids"]) == expected[1:]


def test_the_reward_model_reads_the_same_tokens(tmp_path):
    """Trained on a run's pairs, tools and several turns included, as the chat template writes them."""
    row = ROWS["replies of several turns"] | {"tools": [TOOL]}
    runner.run(
        experiment(tmp_path, [row, ROWS["tools"]], family="qwen2.5", benchmarks=("reward-model",), budget="updates=2"),
        tmp_path,
    )
    arm = tmp_path / "runs" / "rows" / "arms" / "dpo-seed0"
    training = json.loads((arm / "scores" / "reward-model.json").read_text())["details"]["training"]
    expected = 0
    for line in (arm / "preferences" / "policy.jsonl").read_text().splitlines():
        expected += sum(len(each["prompt_ids"]) + len(each["completion_ids"]) for each in json.loads(line)["sequences"])
    assert training["trained_tokens"] == expected


def test_one_row_that_the_template_refuses_is_named_before_anything_is_spent(tmp_path):
    rows = [{"prompt": [user(f"City {number}?")], "chosen": "Rome.", "rejected": "Jam."} for number in range(300)]
    rows[280]["prompt"].append(user("Now!"))
    chosen = experiment(tmp_path, rows, family="mistral-v1")
    with pytest.raises(UserError, match=r"pairs\.jsonl:281: the chat template of .* refuses .* user, user"):
        runner.run(chosen, tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("row", "family", "message"),
    [
        ({"prompt": [user("Q"), RAIN], **PAIR}, "phi-3", r"pairs\.jsonl:2: .* leaves out the tool message"),
        ({**ROWS["tools"]}, "zephyr", r"pairs\.jsonl:2: .* leaves out the tool 'weather'"),
        ({"prompt": "Q", **PAIR, "image": "a.png"}, "chatml", r'pairs\.jsonl:2: "image" is not text'),
    ],
)
def test_the_command_refuses_a_row_by_name(row, family, message, tmp_path):
    chosen = experiment(tmp_path, [ROWS["a question"], row], family=family)
    told = CliRunner().invoke(
        app,
        [
            *("run", "--method", "dpo", "--model", chosen.model, "--preferences", chosen.preferences),
            *("--results", str(tmp_path), "--budget", "updates=1", "--benchmark", "math"),
        ],
    )
    assert isinstance(told.exception, UserError)
    assert re.search(message, str(told.exception))
    assert not (tmp_path / "runs").exists()


def test_columns_that_are_not_used_are_named_once(tmp_path, capsys):
    rows = [{**ROWS["a question"], "id": 1, "source": "web"}, {**ROWS["texts"], "id": 2}]
    runner.run(experiment(tmp_path, rows, family="chatml"), tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "unused" in line]
    assert said == [f"{tmp_path / 'pairs.jsonl'}: unused columns: id (2 rows), source (1 rows)"]


# The date


def ids_on(folder, monkeypatch, day: str, **options) -> list:
    class Today(date):
        @classmethod
        def today(cls):
            return date.fromisoformat(day)

    monkeypatch.setattr("harness.runs.run.date", Today)
    monkeypatch.setattr("harness.engines.templates.date", Today)
    runner.run(experiment(folder, [ROWS["a question"]], family="llama-3.1", **options), folder)
    return trained_on(folder)["sequences"][0]["prompt_ids"]


def test_the_date_of_a_run_is_that_of_its_first_day(tmp_path, monkeypatch):
    first = ids_on(tmp_path, monkeypatch, "2026-03-01")
    assert "date: '2026-03-01'" in (tmp_path / "runs" / "rows" / "experiment.yaml").read_text()
    assert "01 Mar 2026" in FAMILIES["llama-3.1"].tokenizer().decode(first)
    assert ids_on(tmp_path, monkeypatch, "2026-03-02") == first  # the same folder, finished
    assert ids_on(tmp_path, monkeypatch, "2026-03-03", seeds=2) == first  # and continued
    seed = tmp_path / "runs" / "rows" / "arms" / "dpo-seed1" / "preferences" / "policy.jsonl"
    assert json.loads(seed.read_text())["sequences"][0]["prompt_ids"] == first
    with pytest.raises(UserError, match='date="2026-03-01"'):
        ids_on(tmp_path, monkeypatch, "2026-03-04", date="2026-03-04")


def test_a_template_without_a_date_has_none(tmp_path, monkeypatch):
    runner.run(experiment(tmp_path, [ROWS["a question"]], family="chatml"), tmp_path)
    assert "date: null" in (tmp_path / "runs" / "rows" / "experiment.yaml").read_text()


# Thinking


@pytest.fixture
def prompts_seen(monkeypatch) -> list:
    """Token ids of all prompts that engines answer."""
    seen, generate = [], TransformersEngine.generate

    def noting(self, prompts, *rest):
        seen.extend(prompts)
        return generate(self, prompts, *rest)

    monkeypatch.setattr(TransformersEngine, "generate", noting)
    return seen


@pytest.mark.parametrize(("switch", "ending"), [("on", "assistant\n"), ("off", "assistant\n<think>\n\n</think>\n\n")])
def test_thinking_is_switched_where_the_template_has_a_switch(switch, ending, tmp_path, prompts_seen):
    """An answer's prompt has what the template writes for the switch; the score names it."""
    options = {"methods": ("base",), "options": {}, "thinking": switch}
    chosen = experiment(tmp_path, [ROWS["a question"]], family="qwen3 with a switch", **options)
    runner.run(chosen, tmp_path)
    assert FAMILIES["qwen3 with a switch"].tokenizer().decode(prompts_seen[0]).endswith(ending)
    score = tmp_path / "runs" / "rows" / "arms" / "base-seed0" / "scores" / "math.json"
    assert json.loads(score.read_text())["details"]["thinking"] == switch


def test_a_template_without_the_switch_refuses_it(tmp_path):
    chosen = experiment(tmp_path, [ROWS["a question"]], family="chatml", methods=("base",), thinking="on", options={})
    with pytest.raises(UserError, match="has no switch for thinking.*omit --thinking"):
        runner.run(chosen, tmp_path)
