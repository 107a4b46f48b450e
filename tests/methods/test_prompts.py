"""Prompt files in every format, the errors of malformed ones, and the order in which prompts are drawn."""

import gzip
import json
import re

import pytest
from chat_messages import SYSTEM, assistant, user
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_formats import CALL, FORMATS

from harness.errors import UserError
from harness.methods.prompt_rows import read_row
from harness.methods.prompts import PromptStream, load_prompts, rows_by_name
from harness.methods.row_texts import Malformed
from harness.types import Prompt, question_text, reply_text


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, tmp_path):
    row, messages, chosen, rejected = FORMATS[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    labelled = chosen is not None
    assert load_prompts(path, labelled).prompts == [Prompt("rows-0", tuple(messages), chosen, rejected)]


def test_what_the_template_is_given_beside_the_messages(tmp_path):
    tool = {"type": "function", "function": {"name": "weather"}}
    rows = [
        {"prompt": "Q", "tools": [{**tool, "strict": None}], "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": "R", "tools": json.dumps([tool]), "chat_template_kwargs": '{"enable_thinking": false}'},
        {"prompt": "S", "tools": "", "chat_template_kwargs": {}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    *given, plain = load_prompts(path).prompts
    for prompt in given:
        assert (prompt.tools, prompt.variables) == ((tool,), {"enable_thinking": False})
        assert prompt.chat.tools == (tool,)
        assert Prompt.of_record({"id": prompt.id, **json.loads(json.dumps(prompt.record))}) == prompt
    assert (plain.tools, plain.variables, plain.record) == ((), {}, {"prompt": [user("S")]})


def test_columns_that_are_not_used_are_counted(tmp_path):
    rows = [
        {"id": 7, "prompt": "Q", "score": 0, "answer": ""},
        {"id": 8, "prompt": "R", "score": None, "answer": "42", "chosen": "A", "rejected": "B"},
        {"id": 9, "messages": [{**user("S"), "time": "noon"}, assistant("A")], "question": "S"},
        {"id": 9, "turns": ["T", "U"], "": 0},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_prompts(path).unused == {
        **{"id": 4, "score": 1, "answer": 1, "chosen": 1, "rejected": 1},
        **{"messages[].time": 1, "messages (answer at the end)": 1, "turns (after the first)": 1},
    }
    path.write_text(json.dumps(rows[1]))
    assert rows_by_name(load_prompts(path, labelled=True).unused) == "id (1 rows), answer (1 rows)"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz", "rows.jsonl.gz", "rows.v0.1.jsonl"])
def test_files(name, tmp_path):
    rows = [{"prompt": "ä"}, {"prompt": "line\u2028separator"}]
    json_list = ".jsonl" not in name
    text = json.dumps(rows) if json_list else "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    stem = "rows.v0.1" if "v0" in name else "rows"
    found = load_prompts(tmp_path / name).prompts
    assert [(prompt.id, prompt.messages[0]["content"]) for prompt in found] == [
        (f"{stem}-0", "ä"),
        (f"{stem}-1", "line\u2028separator"),
    ]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([], "must be an object, not list"),
        ({}, "has no prompt: expected one of prompt, instruction"),
        ({"prompt": 5}, '"prompt" must be a text'),
        ({"instruction": "Q", "input": 5}, '"input" must be a text'),
        ({"turns": []}, '"turns" must be a list of texts'),
        ({"turns": [["Q"]]}, '"turns" must be a list of texts'),
        ({"messages": "Q"}, '"messages" must be a list of messages'),
        ({"messages": [assistant("A")]}, '"messages" has no user message'),
        ({"messages": [{"role": "tool", "content": "Q"}]}, '"messages" has no user message'),
        ({"messages": [{"role": "robot", "content": "Q"}]}, "\"messages\" has a message with the role 'robot'; known"),
        (
            {"messages": [{"role": ["user"], "content": "Q"}]},
            "\"messages\" has a message with the role ['user']; ",
        ),
        ({"messages": ["Q"]}, '"messages" has a message that is not an object'),
        ({"conversations": [{"from": "human"}]}, "\"conversations\" has a message with the role 'human' but w"),
        ({"messages": [user("Q"), {"role": "assistant", "content": None}]}, '"messages" has a message with the'),
        ({"messages": [{**user("Q"), "content": [{"type": "image"}]}]}, '"messages" has a message with parts of'),
        ({"messages": [{**user("Q"), "content": {"text": "Q"}}]}, '"messages" must be a text'),
        ({"messages": [{**user("Q"), "weight": 0}]}, '"messages" has a message to skip in training'),
        ({"messages": [user("Q"), {"role": "assistant", "tool_calls": "f()"}]}, '"messages" has "tool_calls"'),
        ({"messages": [user("Q"), {**assistant("A"), "name": "\ud83d"}]}, '"messages" holds half a character'),
        ({"prompt": "[{'role': 'user', 'content': 'Q'}]"}, '"prompt" is a conversation written as a text'),
        ({"prompt": "Q", "chosen": '[{"from": "gpt", "value": "A"}]', "rejected": "B"}, '"chosen" is a conversation'),
        ({"prompt": "Q", "image": "cat.png"}, '"image" is not text'),
        ({"prompt": "Q", "images": [{"bytes": "..."}]}, '"images" is not text'),
        ({"prompt": "Q", "tools": "f"}, '"tools" is a text that is not JSON'),
        ({"prompt": "Q", "tools": {"name": "f"}}, '"tools" must be a list of functions'),
        ({"prompt": "Q", "chat_template_kwargs": {"messages": []}}, '"chat_template_kwargs" must be an object'),
        ({"prompt": "Q", "history": "before"}, '"history" must be a list of'),
        ({"prompt": "Q", "history": [["Q"]]}, '"history" has a message that is not an object'),
        (
            {"messages": [user("Q"), assistant("A"), user("R")], "history": [["P", "O"]]},
            'both "history" and a',
        ),
        ({"messages": [SYSTEM, user("Q")], "system": "Be long."}, '"system" and the system message of the'),
        ({"prompt": "P", "messages": [user("Q"), assistant("A")]}, 'the text of "prompt" and the messages of'),
        ({"prompt": [user("P")], "messages": [user("Q")]}, '"messages" and the messages of "prompt" differ'),
        (
            {"prompt": "P", "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
            'the text of "prompt" and the messages of "chosen" differ',
        ),
        (
            {"prompt": [user("P")], "chosen": [user("Q"), assistant("A")], "rejected": [user("P"), assistant("B")]},
            '"chosen" and "rejected" must begin with the assistant, or repeat all of "prompt"',
        ),
        (
            {"chosen": [user("Q"), user("R"), assistant("A")], "rejected": [user("Q"), user("S"), assistant("B")]},
            '"chosen" and "rejected" are not replies to the same messages',
        ),
        ({"chosen": "Blue.", "rejected": "Green."}, 'has no "prompt", and "chosen" and "rejected" do'),
        ({"chosen": "Sky: blue", "rejected": "Sky: blue or"}, 'has no "prompt", and "chosen" and "rejected" do'),
        ({"prompt": "Q", "chosen": 5, "rejected": "B"}, '"chosen" must be a text or messages'),
        ({"prompt": "Q", "chosen": [], "rejected": "B"}, '"chosen" must end with a message of the assistant'),
        ({"prompt": "Q", "chosen": "A"}, 'needs both "chosen" and "rejected", or neither'),
        ({"prompt": "Q", "chosen": [user("A")], "rejected": "B"}, '"chosen" must end with a message of the assistant'),
        (
            {"chosen": [user("Q"), assistant("A")], "rejected": [user("R"), assistant("B")]},
            '"chosen" and "rejected" are not replies to the same messages',
        ),
        (
            {"chosen": [user("Q"), assistant("A")], "rejected": "B"},
            '"chosen" and "rejected" are not replies to the same messages',
        ),
        ({"prompt": "half \ud83d"}, '"prompt" holds half a character'),
        ({"instruction": "Q", "input": "\ude00"}, '"input" holds half a character'),
        ({"instruction": "Q", "instances": [{"input": 5}]}, '"instances" must be a text'),
        ({"turns": ["\ud83d"]}, '"turns" holds half a character'),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, '"messages" holds half a character'),
        ({"prompt": "Q", "chosen": "A", "rejected": "\ud83d"}, '"rejected" holds half a character'),
        ({"prompt": "Q", "output": "\ud83d", "rejected": "B"}, '"output" holds half a character'),
        ({"prompt": float("nan")}, '"prompt" must be a text'),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A"}, '"rejected" must be a text'),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: R\n\nAssistant: A"},
            '"chosen" and "rejected" have no human turn in common',
        ),
    ],
)
def test_malformed_rows_are_named_with_file_line_and_field(row, field, tmp_path):
    good = json.dumps({"prompt": "fine"})
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{good}\n\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=re.escape(f"{path}:3: {field}")):
        load_prompts(path)
    path = tmp_path / "rows.json"
    path.write_text(f"[{good}, {json.dumps(row)}]")
    with pytest.raises(UserError, match=re.escape(f"{path}: entry 2: {field}")):
        load_prompts(path)


def test_labelled_pairs_need_both_sides(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n{"prompt": "Q"}\n')
    assert len(load_prompts(path).prompts) == 2
    with pytest.raises(UserError, match=r'rows\.jsonl:2: has no "chosen" and "rejected"'):
        load_prompts(path, labelled=True)


def test_answers_are_read_where_they_are_needed(tmp_path):
    rows = [
        {"prompt": "Q", "answer": "7"},
        {"question": "R", "answer": "3 and 4 make 7.\n#### 7"},
        {"prompt": "S", "answer": 7},
        {"prompt": "T", "answer": 0.5},
        {"prompt": "U", "answer": ""},
        {"prompt": "V"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    read = load_prompts(path, needs=("answers",))
    assert [prompt.answer for prompt in read.prompts] == ["7", "7", "7", "0.5", None, None]
    assert read.unused == {}
    plain = load_prompts(path)
    assert {prompt.answer for prompt in plain.prompts} == {None} and plain.unused == {"answer": 4}
    path.write_text(json.dumps({"prompt": "Q", "answer": ["7"]}))
    with pytest.raises(UserError, match=r'rows.jsonl:1: "answer" must be a text'):
        load_prompts(path, needs=("answers",))


UNPAIRED = [
    ({"prompt": "Q", "completion": "A", "label": True}, "A", True),
    ({"prompt": [user("Q")], "completion": [assistant("A")], "label": False}, "A", False),
    ({"prompt": "Q", "completion": "A", "label": "False"}, "A", False),
    ({"prompt": "Q", "completion": "A"}, "A", None),
    ({"instruction": "Q", "output": "A"}, "A", None),
    ({"messages": [user("Q"), assistant("A")]}, "A", None),
]


@pytest.mark.parametrize(("row", "completion", "label"), UNPAIRED)
def test_one_reply_with_and_without_a_label(row, completion, label, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    read = load_prompts(path, labelled=True, needs=("demonstrations",))
    assert read.prompts == [Prompt("rows-0", (user("Q"),), completion=completion, label=label)]
    assert read.unused == {}
    if label is None:
        with pytest.raises(UserError, match=r'rows.jsonl:1: has a completion without a "label"'):
            load_prompts(path, labelled=True, needs=("labels", "demonstrations"))
    for needs in (("pairs",), ("labels", "pairs")):
        with pytest.raises(UserError, match='has no "chosen" and "rejected", which labelled pairs need'):
            load_prompts(path, labelled=True, needs=needs)
    assert load_prompts(path).prompts == [Prompt("rows-0", (user("Q"),))]


def test_rows_that_are_no_demonstrations(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Q"}))
    with pytest.raises(UserError, match='has neither "chosen" and "rejected" nor a "completion"'):
        load_prompts(path, labelled=True, needs=("demonstrations",))
    path.write_text(json.dumps({"prompt": "Q", "completion": "A", "label": 2}))
    with pytest.raises(UserError, match='"label" must be true or false, not 2'):
        load_prompts(path, labelled=True, needs=("labels",))


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(UserError, match="no file at .*absent.jsonl"):
        load_prompts(tmp_path / "absent.jsonl")
    broken = {
        "lines.jsonl": (b'{"prompt": "Q"}\n{"prompt":\n', r"lines\.jsonl:2: not JSON .*fix or remove the line"),
        "list.json": (b'[\n{"prompt": "Q"},\n]', r"list\.json:\d: not JSON"),
        "object.json": (b'{"prompt": "Q"}', r"object\.json: must hold a list of rows"),
        "latin.jsonl": (b'\n{"prompt": "\xe4"}', r"latin\.jsonl:2: cannot be read \(byte 0xe4 is not UTF-8\)"),
        "plain.jsonl.gz": (b'{"prompt": "Q"}', r"plain\.jsonl\.gz: cannot be read"),
        "cut.jsonl.gz": (gzip.compress(b'{"prompt": "Q"}' * 99)[:-12], r"cut\.jsonl\.gz: cannot be read"),
        "bits.jsonl.gz": (gzip.compress(b"")[:10] + b"\xff" * 20, r"bits\.jsonl\.gz: cannot be read"),
        "empty.jsonl": (b"", r"empty\.jsonl has no usable prompt \(0 rows are empty\)"),
        "blank.jsonl": (b'{"prompt": " "}', r"blank\.jsonl has no usable prompt \(1 rows are empty\)"),
    }
    for name, (data, message) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            load_prompts(tmp_path / name)


def test_duplicate_and_empty_rows_are_counted(tmp_path):
    rows = [
        {"prompt": "Q"},
        {"prompt": " \n"},
        {"instruction": "Q"},  # the same prompt in another format
        {"prompt": "R"},
        {"prompt": "Q", "chosen": "A", "rejected": ""},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load_prompts(path)
    assert [prompt.id for prompt in found.prompts] == ["rows-0", "rows-1", "rows-2"]
    assert (found.duplicates, found.empty) == (1, 1)
    path.write_text("\n".join(map(json.dumps, [*rows[4:], {"prompt": "Q", "chosen": "A", "rejected": "B"}])))
    found = load_prompts(path, labelled=True)
    assert (len(found.prompts), found.duplicates, found.empty) == (1, 0, 1)


KEYS = ["prompt", "messages", "conversations", "turns", "instruction", "input", "instances", "chosen", "rejected"]
TEXTS = st.text() | st.sampled_from(["user", "gpt", "\n\nHuman: Q\n\nAssistant: A"])
LEAVES = st.none() | st.integers() | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "input"]), inner)
    ),
    max_leaves=8,
)


@example({"chosen": [None]})
@given(st.dictionaries(st.sampled_from([*KEYS, "output"]), VALUES) | VALUES)
def test_any_row_is_read_or_malformed(row):
    try:
        read = read_row(row)
    except Malformed:
        return
    assert any(message["role"] == "user" for message in read.messages)
    assert all(isinstance(message["content"], str) for message in read.messages)
    assert (read.chosen is None) == (read.rejected is None)
    assert set(read.unused) <= {*row, "turns (after the first)", "instances (after the first)"} | {
        f"{name}{part}" for name in KEYS for part in (" (answer at the end)", "[].role", "[].input")
    }


@pytest.mark.parametrize(
    ("name", "usable", "duplicates"),  # their sums are the rows that the files are published with
    [
        ("alpaca_en_demo.json.gz", 985, 14),
        ("arena_hard_v0.1_question.jsonl", 500, 0),
        ("autoj_scenario_prompts.jsonl.gz", 2383, 0),
        ("autoj_testdata_pairwise.jsonl.gz", 1182, 210),
        ("seed_tasks.jsonl", 175, 0),
    ],
)
def test_real_prompts(data_dir, name, usable, duplicates):
    found = load_prompts(data_dir / "prompts" / name)
    assert (len(found.prompts), found.duplicates, found.empty) == (usable, duplicates, 0)
    assert len({prompt.id for prompt in found.prompts}) == usable
    assert all(prompt.chosen is None for prompt in found.prompts)


@pytest.mark.parametrize(
    ("name", "usable", "duplicates", "empty"),
    [
        ("dpo_en_demo.json.gz", 295, 5, 0),
        ("hh_rlhf_harmless_base_test.jsonl.gz", 2308, 0, 4),  # four of the 2,312 have an empty reply
        ("instruction-data-with-preference.json.gz", 1100, 0, 0),
    ],
)
def test_real_labelled_pairs(data_dir, name, usable, duplicates, empty):
    found = load_prompts(data_dir / "prompts" / name, labelled=True)
    assert (len(found.prompts), found.duplicates, found.empty) == (usable, duplicates, empty)
    for prompt in found.prompts:
        roles = [message["role"] for message in prompt.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert prompt.chosen.strip() and prompt.rejected.strip()


def test_real_self_instruct_rows_have_their_input(data_dir):
    found = load_prompts(data_dir / "prompts" / "seed_tasks.jsonl").prompts[1]
    assert found.messages[0]["content"] == (
        "What is the relation between the given pairs?\n\nNight : Day :: Right : Left"
    )


def test_reply_text():
    assert reply_text("A") == "A"
    assert reply_text((assistant("A"), user("R"), assistant("B"))) == "Assistant: A\n\nUser: R\n\nAssistant: B"
    assert reply_text(({"role": "assistant", "tool_calls": [CALL]},)) == json.dumps(CALL)


def test_question_text():
    assert question_text([user("User: Q?")]) == "User: Q?"
    assert question_text([SYSTEM, user("Q?")]) == "System: Be brief.\n\nUser: Q?"
    assert question_text([user("Q"), assistant("A"), user("R")]) == "User: Q\n\nAssistant: A\n\nUser: R"


# ---- drawing


PROMPTS = [Prompt(f"p{number}", (user(str(number)),)) for number in range(7)]


def ids(prompts) -> list[str]:
    return [prompt.id for prompt in prompts]


def test_order_is_the_seeds():
    order = ids(PromptStream(PROMPTS, 3).take(7))
    assert order == ids(PromptStream(PROMPTS, 3).take(7))
    assert sorted(order) == ids(PROMPTS)
    assert len({tuple(ids(PromptStream(PROMPTS, seed).take(7))) for seed in range(5)}) == 5


def test_each_pass_has_every_prompt_once_in_its_own_order_and_with_its_own_ids():
    drawn = PromptStream(PROMPTS, 0).take(21)
    assert len(set(ids(drawn))) == 21
    passes = [drawn[start : start + 7] for start in (0, 7, 14)]
    for number, prompts in enumerate(passes):
        suffix = f"@{number}" if number else ""
        assert sorted(ids(prompts)) == [f"p{index}{suffix}" for index in range(7)]
        assert sorted(prompt.messages[0]["content"] for prompt in prompts) == list("0123456")
    assert len({tuple(prompt.messages[0]["content"] for prompt in prompts) for prompts in passes}) == 3


@pytest.mark.parametrize("sizes", [(21,), (7, 7, 7), (5, 5, 5, 6), (1,) * 21, (0, 20, 1)])
def test_draws_of_any_size_give_one_stream(sizes):
    stream = PromptStream(PROMPTS, 1)
    drawn = [prompt for size in sizes for prompt in stream.take(size)]
    assert ids(drawn) == ids(PromptStream(PROMPTS, 1).take(21))
    assert stream.position == 21


@pytest.mark.parametrize("position", [0, 3, 7, 10, 20])
def test_a_stream_goes_on_where_another_stopped(position):
    whole = PromptStream(PROMPTS, 2).take(25)
    later = PromptStream(PROMPTS, 2)
    later.position = position
    assert later.take(25 - position) == whole[position:]
