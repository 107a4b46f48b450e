"""Rows of files, through the prompts in them: every format, and whatever files of others can hold."""

import csv
import gzip
import json

import pytest
from chat_messages import assistant, user

from harness.errors import UserError
from harness.methods.prompts import load_prompts

# CSV and Parquet


def test_csv_and_parquet_are_read_like_json(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"prompt": 'Say "hi",\nplease', "chosen": "hi", "rejected": "no"},
        {"prompt": "שלום 你好", "chosen": "x" * 200_000, "rejected": "\r\n y"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open(tmp_path / "p.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with gzip.open(tmp_path / "p.csv.gz", "wb") as file:
        file.write((tmp_path / "p.csv").read_bytes())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = load_prompts(tmp_path / "p.jsonl", labelled=True)
    for name in ("p.csv", "p.csv.gz", "p.parquet"):
        assert load_prompts(tmp_path / name, labelled=True) == expected


def test_parquet_holds_conversations(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": [user("Why?"), assistant("So.")], "chosen": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    (prompt,) = load_prompts(tmp_path / "p.parquet").prompts
    assert prompt.messages == (user("Why?"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"prompt,source\na,b\nc\n", r"p\.csv:3: expected 2 fields as in the header"),
        ("p.csv", b"prompt\na,b\n", r"p\.csv:2: expected 1 fields"),
        ("p.csv", b'prompt\n"a\n', r"p\.csv:2: not CSV"),
        ("p.csv", b"text\na\n", r"p\.csv:2: has no prompt"),
        ("p.csv", b"prompt\n\xff\n", r"p\.csv:2: cannot be read \(byte 0xff is not UTF-8\)"),
        ("p.csv", b"", "no usable prompt"),
        ("p.parquet", b"PAR1 no", r"p\.parquet: not Parquet"),
        ("p.parquet", b"", r"p\.parquet: not Parquet"),
    ],
)
def test_broken_csv_and_parquet(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_prompts(tmp_path / name)


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    import pyarrow
    import pyarrow.parquet

    when = pyarrow.array([1, 2], pyarrow.timestamp("ns"))  # which Python's own times can not hold
    table = pyarrow.table({"prompt": ["Q", "R"], "when": when, "other": [b"\xff", None]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert len(load_prompts(tmp_path / "p.parquet").prompts) == 2
    pyarrow.parquet.write_table(table.select(["when", "other"]), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"p\.parquet: has none of the columns prompt, instruction"):
        load_prompts(tmp_path / "p.parquet")
    pyarrow.parquet.write_table(table.rename_columns(["other", "when", "prompt"]), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r'p\.parquet: row 1: "prompt" must be a text'):
        load_prompts(tmp_path / "p.parquet")


def test_damaged_pages_are_told(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [f"{n:0500d}" for n in range(999)]}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[200:400] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"p\.parquet: cannot be read as Parquet after row 0"):
        load_prompts(path)


# what files of others can hold


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"prompt": "Q"}\n' + b"[" * 100_000, r"p\.jsonl:2: not JSON \(nested deeper than 100 levels\)"),
        ("p.jsonl", b'{"prompt": "Q", "x": ' + b"[" * 101 + b"]" * 101 + b"}", r"p\.jsonl:1: .*nested deeper than 100"),
        ("p.jsonl", b'{"prompt": "Q", "n": ' + b"9" * 5000 + b"}", r"p\.jsonl:1: not JSON \(Exceeds the limit"),
        ("p.jsonl", b'\n{"prompt": "Q", "prompt": "R"}', r"p\.jsonl:2: not JSON \(key 'prompt' is given twice"),
        ("p.jsonl", b'{"prompt": "Q"} {"prompt": "R"}', r"p\.jsonl:1: not JSON \(something follows the value\)"),
        ("p.json", b'[{"prompt": "Q"},\n{"prompt": "R", "prompt": "S"}]', r"p\.json:2: not JSON \(key 'prompt'"),
        ("p.json", b'[{"prompt": "Q"}\n{"prompt": "R"}]', r"p\.json:2: not JSON \(expecting ',' or '\]'"),
        ("p.json", b'[{"prompt": "Q"}]\n]', r"p\.json:2: not JSON \(something follows the list\)"),
        ("p.json", b'{"prompt": "Q"}\n{"prompt": "R"}', r"p\.json: must hold a list .* per line \.jsonl"),
        ("p.json", b'[{"prompt": "Q"}, {"prompt": "\\ud800"}]', r'p\.json: entry 2: "prompt" holds half a character'),
        ("p.json", b'[{"prompt": "Q"},\n"\xff"]', r"p\.json:2: cannot be read \(byte 0xff is not UTF-8\)"),
        ("p.csv", b"prompt,prompt\na,b\n", r"p\.csv:1: column 'prompt' is given twice"),
        ("p.csv", b'prompt,input\n"a\nb",c\n\n"d\n', r"p\.csv:5: not CSV"),
        ("p.csv", b'prompt,input\n"a\nb",c\n\nd\n', r"p\.csv:5: expected 2 fields"),
        ("p.jsonl", "\ufeff".encode() * 2 + b'{"prompt": "Q"}', r"p\.jsonl:1: not JSON"),
        ("p.jsonl", '{"prompt": "Q"}'.encode("utf-16"), r"p\.jsonl:1: cannot be read \(byte 0xff is not UTF-8\)"),
        ("p.jsonl", b'{"prompt": "Q"}\n\x1c', r"p\.jsonl:2: not JSON"),  # white space of Python, not of JSON
        ("p.jsonl", b"\n\r\n \n", r"p\.jsonl has no usable prompt \(0 rows are empty\)"),
    ],
)
def test_what_is_ambiguous_or_no_text_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_prompts(tmp_path / name)
    if name.endswith("l"):
        return
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=message.replace(r":", r"\.gz:", 1)):
        load_prompts(tmp_path / f"{name}.gz")


def test_texts_stay_as_they_are(tmp_path):
    texts = ["a\x00b", "\u2028.\u2029\x85", "\u202eabc\u200f עברית", "x" * 1_000_000, "\ud7ff\U0010ffff", "\r\n tail"]
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "p.jsonl"
        lines = end.join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
        path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
        assert [prompt.messages[0]["content"] for prompt in load_prompts(path).prompts] == texts


def test_absent_fields_that_a_table_fills_with_null(tmp_path):
    path = tmp_path / "p.jsonl"
    chat = [{"role": "user", "content": "Q", "from": None, "value": None}, {"from": "gpt", "role": None, "value": "A"}]
    rows = [
        {"messages": None, "prompt": None, "instruction": "I", "input": None, "chosen": None, "rejected": None},
        {"messages": chat, "prompt": None},
        {"instruction": "J", "instances": [{"input": None}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [prompt.messages[-1]["content"] for prompt in load_prompts(path).prompts] == ["I", "Q", "J"]


def test_long_lines_and_packed_bombs_are_not_read_whole(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr("harness.files.rows.LONGEST_LINE", 1 << 16)
    monkeypatch.setattr("harness.files.rows.LONGEST_FILE", 1 << 16)
    row = b'{"prompt": "Q"}\n'
    for name, place in (("p.jsonl.gz", ":2"), ("p.json.gz", ""), ("p.csv.gz", ":2")):
        (tmp_path / name).write_bytes(gzip.compress(row + b" " * (16 << 20)))
        tracemalloc.start()
        with pytest.raises(UserError, match=rf"{name}{place}: .*(longer than 65536|larger than field limit)"):
            load_prompts(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        tracemalloc.stop()


def test_only_regular_files_are_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jsonl")  # opening it would wait for a writer
    for path in (tmp_path, tmp_path / "pipe.jsonl", "/dev/zero"):
        with pytest.raises(UserError, match="is not a regular file: give a JSON"):
            load_prompts(path)
    for path in ("x" * 5000, "a\0b", "a\nb", ""):
        with pytest.raises(UserError, match="no file at"):
            load_prompts(path)
