"""Benchmark files: found, read and refused with the place of what is wrong."""

import gzip
import json
import re

import pytest

from harness.benchmarks.base import Settings
from harness.benchmarks.files import find, read_json, read_rows, suite_settings, with_suite_settings
from harness.errors import UserError
from harness.experiment import registry

ROW = {"prompt": "What?", "level": 3}
LINE = json.dumps(ROW)


def message(function, *arguments, **fields) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["mt-bench", "alpaca-eval", "reward-bench", "math"])
@pytest.mark.parametrize("made", [False, True])
def test_no_folder(tmp_path, name, made):
    """The command that fetches the files, with this data folder."""
    if made:
        for folder in ("mt_bench", "alpaca_eval", "rewardbench", "math"):
            (tmp_path / folder).mkdir()
    said = message(registry.load("benchmark", name).load, tmp_path, Settings())
    assert said.endswith(f"harness data fetch {name} --data-dir {tmp_path}")


def test_find_takes_the_first_name_and_gzipped_files(tmp_path):
    (tmp_path / "b.jsonl.gz").touch()
    assert find(tmp_path, "x", "a.jsonl", "b*.jsonl").name == "b.jsonl.gz"
    (tmp_path / "a.jsonl").touch()
    assert find(tmp_path, "x", "a.jsonl", "b*.jsonl").name == "a.jsonl"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.json.gz"])
def test_all_forms(tmp_path, name):
    rows = [ROW, {"prompt": "line\u2028separator \u00e9 \x85", "level": 1}]
    separate = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    text = json.dumps(rows) if ".jsonl" not in name else separate
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    assert read_rows(tmp_path / name, prompt=str, level=int) == rows


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.jsonl", f"{LINE}\n{LINE}\n{LINE[:-1]}\n", "r.jsonl:3: not JSON"),
        ("r.jsonl", f"{LINE}\n\n[1]\n", "r.jsonl:3: must be an object"),
        ("r.jsonl", f'{LINE}\n{{"prompt": 7, "level": 1}}', "r.jsonl:2: field 'prompt' must be of type str, not 7"),
        ("r.jsonl", '{"prompt": "a", "level": "3"}', "r.jsonl:1: field 'level' must be of type int, not '3'"),
        ("r.jsonl", '{"prompt": "a", "level": true}', "r.jsonl:1: field 'level' must be of type int, not True"),
        ("r.jsonl", '{"prompt": "a"}', "r.jsonl:1: field 'level' must be of type int, not None"),
        ("r.jsonl", "\n \n", "r.jsonl: holds no rows"),
        ("r.json", "[]", "r.json: holds no rows"),
        ("r.json", '{"a": 1}', "r.json: must hold a list"),
        ("r.json", f"[\n{LINE},\n{LINE}\n{LINE}]", "r.json:4: not JSON"),
        ("r.json", f'[{LINE}, {{"prompt": null}}]', "r.json: entry 2: field 'prompt' must be of type str, not None"),
    ],
)
def test_faulty_rows(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    assert said in message(read_rows, tmp_path / name, prompt=str, level=int)
    zipped = said.replace(name, f"{name}.gz", 1)
    assert zipped in message(read_rows, tmp_path / f"{name}.gz", prompt=str, level=int)


def test_long_values_are_cut(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": ["x" * 10_000]}))
    assert len(message(read_rows, tmp_path / "r.jsonl", prompt=str)) < len(str(tmp_path)) + 150


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.jsonl.gz", b"no gzip"),
        ("r.jsonl.gz", gzip.compress(LINE.encode() * 100, mtime=0)[:-12]),
        ("r.jsonl.gz", gzip.compress(LINE.encode() * 100, mtime=0)[:10] + b"\xff" * 20),
        ("r.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}'),
    ],
)
def test_unreadable_bytes(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    place = name if name.endswith(".gz") else f"{name}:2"
    assert re.search(rf"{place}: cannot be read .* fetch it again", message(read_rows, tmp_path / name))


def test_settings_of_a_suite(tmp_path):
    assert suite_settings(tmp_path) == {}
    assert with_suite_settings(tmp_path, Settings(seed=4)) == Settings(seed=4)
    (tmp_path / "settings.json").write_text('{"name": "small", "temperature": 1.0, "max_new_tokens": 64}')
    assert with_suite_settings(tmp_path, Settings()) == Settings(temperature=1.0, max_new_tokens=64)
    given = Settings(temperature=0.0, max_new_tokens=8, limit=2)
    assert with_suite_settings(tmp_path, given) == given  # what is given wins, 0 included
    (tmp_path / "settings.json").write_text('{"name": ')
    assert "settings.json:1: not JSON" in message(suite_settings, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must be an object"),
        ('{"temperature": "hot"}', "'temperature' must be of type float, not 'hot'"),
        ('{"max_new_tokens": true}', "'max_new_tokens' must be of type int, not True"),
        ('{"math_instruction": null}', "'math_instruction' must be of type str, not None"),
    ],
)
def test_faulty_settings_of_a_suite(tmp_path, text, said):
    (tmp_path / "settings.json").write_text(text)
    assert message(suite_settings, tmp_path) == f"{tmp_path / 'settings.json'}: {said}"


def test_read_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, 2]}
    assert "cannot be read" in message(read_json, tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"\\ud83d"', "r.jsonl:2: field 'prompt' is not Unicode text (it holds half a character)"),
        ('["a", {"b": "\\ude00"}]', "r.jsonl:2: field 'prompt' must be of type str"),
        ("[" * 100_000, "r.jsonl:2: not JSON (nested deeper than 100 levels)"),
        ("9" * 5000, "r.jsonl:2: not JSON (Exceeds the limit"),
        ('"a", "prompt": "b"', "r.jsonl:2: not JSON (key 'prompt' is given twice in an object)"),
    ],
)
def test_what_is_no_text_or_ambiguous(tmp_path, value, said):
    (tmp_path / "r.jsonl").write_text(f'{{"prompt": "\\ud83d\\ude00"}}\r\n{{"prompt": {value}}}')
    assert said in message(read_rows, tmp_path / "r.jsonl", prompt=str)


def test_half_characters_in_lists_are_found(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"turns": ["a", {"b": "\\ude00"}]}')
    assert "r.jsonl:1: field 'turns' is not Unicode text" in message(read_rows, tmp_path / "r.jsonl", turns=list)


@pytest.mark.parametrize("text", ['{"temperature": NaN}', '{"temperature": -1}', '{"max_new_tokens": 0}'])
def test_settings_that_can_not_be(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    assert "must be at least" in message(suite_settings, tmp_path)


def test_folders_and_pipes_are_not_opened(tmp_path):
    import os

    (tmp_path / "a.jsonl").mkdir()
    os.mkfifo(tmp_path / "b.jsonl")
    for name in ("a.jsonl", "b.jsonl"):
        assert f"{name}: cannot be read (it is not a regular file)" in message(read_rows, tmp_path / name)
