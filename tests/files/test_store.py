"""Files are whole or absent, and a folder has one writer."""

import json
import os
import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.files import store
from harness.files.marks import Folder
from harness.files.store import only_writer, read_jsonl, row_writer


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "scores.jsonl"
    store.write_jsonl(file, [{"id": 1}])

    def rows():
        yield {"id": 2}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write_jsonl(file, rows())
    assert store.read_jsonl(file) == [{"id": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.jsonl"]


def test_an_interrupted_rename_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        store.write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_text_survives(tmp_path):
    row = {"text": "línea\nשלום \u2028 \x00 [[10]]"}
    store.write_jsonl(tmp_path / "rows.jsonl", [row])
    assert store.read_jsonl(tmp_path / "rows.jsonl") == [row]


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2: not JSON"):
        store.read_jsonl(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "a\nb", ".hidden", "a:b", "nul\0"),
        *("-rf", "a\x1b[31m", "a\u202eb", "x" * 101),
    ],
)
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(UserError, match="not allowed"):
        Folder(tmp_path).folder(name)


def test_half_a_surrogate_pair_is_kept_as_an_escape(tmp_path):
    store.write_jsonl(tmp_path / "rows.jsonl", [{"text": "a\ud800b"}])
    assert (tmp_path / "rows.jsonl").read_text() == '{"text": "a\\ud800b"}\n'
    assert store.read_jsonl(tmp_path / "rows.jsonl") == [{"text": "a\ud800b"}]


def test_the_same_text_is_not_written_again(tmp_path):
    file = tmp_path / "a.json"
    store.write_json(file, {"a": 1})
    inode = file.stat().st_ino
    store.write_json(file, {"a": 1})
    assert file.stat().st_ino == inode
    store.write_json(file, {"a": 2})
    assert file.stat().st_ino != inode


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / ".math.json.x1y2.tmp").write_text('{"val')
    with only_writer(tmp_path):
        assert list((tmp_path / "scores").iterdir()) == []


def test_digest_does_not_depend_on_the_order_of_keys():
    assert store.digest({"a": 1, "b": [1.5, None]}) == store.digest(json.loads('{"b": [1.5, null], "a": 1}'))
    assert store.digest({"a": 1}) != store.digest({"a": 2})


HOLDER = """
import sys, time
from pathlib import Path
from harness.files import store
with store.only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer_a_folder_and_a_dead_one_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on .*, since 20"), only_writer(tmp_path):
            pass
        holder.kill()
    with only_writer(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} "), only_writer(tmp_path):
            pass
    with only_writer(tmp_path):
        pass


def test_rows_can_be_taken_back(tmp_path):
    with row_writer(tmp_path / "rows.jsonl") as rows:
        for number in range(5):
            rows.add({"text": "ä" * number})
        rows.keep(3)
        rows.add({"text": "last"})
        assert not (tmp_path / "rows.jsonl").exists()
    assert [row["text"] for row in read_jsonl(tmp_path / "rows.jsonl")] == ["", "ä", "ää", "last"]


def test_rows_that_were_not_finished_leave_nothing(tmp_path):
    with pytest.raises(KeyError), row_writer(tmp_path / "rows.jsonl") as rows:
        rows.add({"a": 1})
        raise KeyError
    assert not list(tmp_path.iterdir())
