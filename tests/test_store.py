"""Files are whole or absent, and a finished step is recognised by its key alone."""

import json

import pytest

from harness import store
from harness.errors import UserError


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


def test_a_step_is_finished_for_its_key_only(tmp_path):
    folder = store.Folder(tmp_path)
    assert not folder.finished("policy", "key")
    folder.finish("policy", "key", drawn=7)
    assert folder.finished("policy", "key")
    assert not folder.finished("policy", "other key")
    assert folder.facts("policy")["drawn"] == 7


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a\nb", ".hidden", "a:b", "nul\0"])
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(UserError, match="not allowed"):
        store.Folder(tmp_path).folder(name)


def test_digest_does_not_depend_on_the_order_of_keys():
    assert store.digest({"a": 1, "b": [1.5, None]}) == store.digest(json.loads('{"b": [1.5, null], "a": 1}'))
    assert store.digest({"a": 1}) != store.digest({"a": 2})
