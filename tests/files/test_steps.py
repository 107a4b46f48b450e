"""A finished step is known by what it was made from, and its files by their digests."""

import hashlib

import pytest

from harness.errors import UserError
from harness.files.marks import Folder, differences

MADE_FROM = {"options": {"beta": 0.1, "loss": "dpo"}, "model": {"weights": "aa"}, "seed": 0}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    folder = Folder(tmp_path)
    folder.finish("policy", MADE_FROM, [tmp_path / "checkpoint", tmp_path / "rows.jsonl"], drawn=7)
    return folder


def test_a_mark_has_facts_and_the_digest_of_each_file(folder):
    assert folder.finished("policy", dict(reversed(MADE_FROM.items())))
    assert not folder.finished("another", MADE_FROM)
    assert folder.steps() == ["policy"]
    mark = folder.mark("policy")
    assert mark.facts == {"drawn": 7}
    assert mark.files == {
        "checkpoint/model.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "rows.jsonl": hashlib.sha256(b"{}\n").hexdigest(),
    }


def test_another_dependency_is_refused_and_named(folder):
    changed = {**MADE_FROM, "options": {"beta": 0.2, "loss": "dpo"}}
    with pytest.raises(UserError, match=r"step policy was computed with options.beta=0.1 \(now 0.2\).*--restart"):
        folder.finished("policy", changed)
    folder.forget("policy")
    assert not folder.finished("policy", changed)


def test_all_differences_are_found_to_their_leaves():
    now = {"options": {"beta": 0.1, "gamma": 1}, "model": {"weights": "bb"}, "seed": 0}
    assert differences(MADE_FROM, now) == [
        ("model.weights", '"aa"', '"bb"'),
        ("options.gamma", "null", "1"),
        ("options.loss", '"dpo"', "null"),
    ]


def test_damage_is_found(folder):
    folder.check("policy")
    assert folder.whole("policy")
    (folder / "rows.jsonl").write_text("[]\n")
    assert folder.whole("policy")
    with pytest.raises(UserError, match=r"rows\.jsonl has changed since step policy wrote it"):
        folder.check("policy")
    (folder / "checkpoint" / "model.safetensors").unlink()
    assert not folder.whole("policy")
    assert [text.split("/")[-1] for text in folder.damage("policy")] == [
        "model.safetensors is missing",
        "rows.jsonl has changed since step policy wrote it",
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "x"}'])
def test_a_damaged_mark_is_named(folder, content):
    (folder / "steps" / "policy.json").write_text(content)
    with pytest.raises(UserError, match=r"steps/policy\.json.*delete"):
        folder.finished("policy", MADE_FROM)


def test_digests_are_not_shown_to_people(tmp_path):
    folder = Folder(tmp_path)
    before = {"prompts": "0123456789abcdef", "model": {"weights": "a" * 64}, "seed": 1}
    folder.finish("policy", before, [])
    with pytest.raises(UserError, match="computed with other model.weights, other prompts, seed=1 .now 2.. Restore"):
        folder.finished("policy", {"prompts": "fedcba9876543210", "model": {"weights": "b" * 64}, "seed": 2})
