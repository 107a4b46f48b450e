"""Data sets of the hub: read like files, fetched once, told of in one line where they can not be had."""

import json
import os
import subprocess
import sys

import pytest
from loopback_hub import loopback_hub
from paths import ROOT

from harness.errors import UserError
from harness.files import hub
from harness.methods.prompts import load_prompts

ROWS = [
    {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": 1.5},
    {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": 2.5},
    {"prompt": "مرحبا", "chosen": "\u202eabc", "rejected": "x", "margin": None},
    {"prompt": " ", "chosen": "a", "rejected": "b", "margin": 0.0},
]
CARD = (
    b"---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n"
    b"- config_name: chats\n  data_files:\n  - {split: validation, path: chats.jsonl}\n---\n"
)
CODE = """
import json, sys
from harness.errors import UserError
from harness.methods.prompts import load_prompts
for name in sys.argv[1:]:
    try:
        found = load_prompts(name)
        print(json.dumps([[[p.id, p.messages[-1]["content"], p.chosen] for p in found.prompts],
                          found.duplicates, found.empty]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def loaded(home, names, **environment) -> list:
    """What `load_prompts` gives for each name, or its error, in a process of its own: its libraries read their settings
    when they are imported."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names],
        cwd=home,
        env=variables | {"HF_HOME": str(home), "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What names give with the hub there, and then without it."""
    home = tmp_path_factory.mktemp("hub")
    (home / "local" / "folder").mkdir(parents=True)
    sets = {
        "some/pairs": {
            "README.md": CARD,
            "train.jsonl": lines(*ROWS),
            "chats.jsonl": lines({"messages": [{"role": "user", "content": "Hi"}]}, {"messages": []}),
        },
        "some/numbers": {"train.jsonl": lines({"number": 1})},
    }
    names = {
        "default": "some/pairs",
        "split": "some/pairs:train[2:3]",
        "malformed": "some/pairs/chats:validation",
        "no split": "some/pairs:test",
        "no config": "some/pairs/other",
        "no columns": "some/numbers",
        "absent": "some/absent",
        "folder": "local/folder/config",
    }
    with loopback_hub(sets) as url:
        online = dict(zip(names, loaded(home, names.values(), HF_ENDPOINT=url), strict=True))
    return online, loaded(home, ["some/pairs/default", "some/absent"], HF_HUB_OFFLINE="1")


def test_rows_are_read_like_those_of_files(answers, tmp_path):
    expected = [[["pairs-0", "Why?", "So."], ["pairs-1", "مرحبا", "\u202eabc"]], 1, 1]
    assert answers[0]["default"] == expected
    assert answers[0]["split"] == [[["pairs-0", "مرحبا", "\u202eabc"]], 0, 0]
    (tmp_path / "pairs.jsonl").write_bytes(lines(*ROWS))
    found = load_prompts(tmp_path / "pairs.jsonl")
    read = [[prompt.id, prompt.messages[-1]["content"], prompt.chosen] for prompt in found.prompts]
    assert [read, found.duplicates, found.empty] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("malformed", 'some/pairs/chats:validation: row 2: "messages" has no user message'),
        ("no split", "some/pairs:test: neither a file nor a data set that the hub has (Unknown split"),
        ("no config", "some/pairs/other: neither a file nor a data set that the hub has (BuilderConfig"),
        ("no columns", "some/numbers: has none of the columns prompt, instruction"),
        ("absent", "some/absent: neither a file nor a data set that the hub has"),
        ("folder", "local/folder/config: local/folder is a folder here"),
    ],
)
def test_what_can_not_be_had_is_told_in_one_line(answers, name, message):
    told = answers[0][name]
    assert told.startswith(message) and "\n" not in told


def test_what_was_fetched_needs_no_network_and_what_was_not_says_how(answers):
    online, (again, absent) = answers
    assert again == online["default"]
    assert absent.endswith("check the name (OWNER/NAME[/CONFIG][:SPLIT]) and unset HF_HUB_OFFLINE to fetch it")


@pytest.mark.parametrize("name", ["some/absent.jsonl", "some/absent.csv.gz", "absent", "a/b/c/d", "http://some/set"])
def test_names_of_files_are_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub, "located", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="no file at"):
        load_prompts(name)
