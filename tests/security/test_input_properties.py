"""Properties of all input: what is accepted is what the file says, and everything else is one line that says where.

`python tests/helpers/fuzz.py` looks for counterexamples with many more inputs.
"""

import csv
import gzip
import json
import random
import re

import pytest
from fuzz import Trial, mutate
from fuzz_seeds import seeds
from fuzz_targets import PLACE, TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.benchmarks.files import read_rows
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.experiment.settings import parse_options
from harness.files.typed import build, load
from harness.methods.prompts import load_prompts

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=40) | st.sampled_from(["\x00", "\u2028", "\u202eabc", "\r\n", " ", "\ufeff", '"', "שלום"])
WHOLE = TEXT.filter(lambda text: (text.strip() and text.isprintable()) or text == "\u202eabc")
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n \n"])


@FAST
@given(texts=st.lists(TEXT, min_size=1), ends=st.lists(ENDS, min_size=1), raw=st.booleans(), packed=st.booleans())
def test_lines_are_read_back_whatever_ends_them(tmp_path, texts, ends, raw, packed):
    lines = [json.dumps({"prompt": text}, ensure_ascii=not raw) for text in texts]
    data = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines)).encode()
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    wanted = [text for text in dict.fromkeys(texts) if text.strip()]
    if not wanted:
        with pytest.raises(UserError, match=rf"has no usable prompt \({len(texts)} rows are empty\)"):
            load_prompts(path)
        return
    found = load_prompts(path)
    assert [prompt.messages[0]["content"] for prompt in found.prompts] == wanted
    assert len(found.prompts) + found.duplicates + found.empty == len(texts)
    assert [row["prompt"] for row in read_rows(path, prompt=str)] == texts


@FAST
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1))
def test_every_format_says_the_same(tmp_path, rows):
    import pyarrow
    from pyarrow import parquet

    names = ("prompt", "chosen", "rejected")
    dicts = [dict(zip(names, ("Q" + row[0], row[1], row[2]), strict=True)) for row in rows]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dicts))
    (tmp_path / "p.json").write_text(json.dumps(dicts, indent=1))
    with open(tmp_path / "p.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(dicts)
    parquet.write_table(pyarrow.Table.from_pylist(dicts), tmp_path / "p.parquet")
    expected = load_prompts(tmp_path / "p.jsonl")
    assert len(expected.prompts) + expected.duplicates + expected.empty == len(rows)
    for name in ("p.json", "p.csv", "p.parquet"):
        assert load_prompts(tmp_path / name) == expected, name


@FAST
@given(before=st.lists(WHOLE, max_size=3), wrong=st.binary(min_size=1, max_size=40))
def test_a_line_that_is_no_row_is_named(tmp_path, before, wrong):
    if re.search(rb"[\r\n]", wrong) or not wrong.strip():
        return
    data = "".join(json.dumps({"prompt": text}) + "\n" for text in before).encode() + wrong
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_prompts(path)
    assert str(error.value).startswith(f"{path}:{len(before) + 1}: ") and "\n" not in str(error.value)


@FAST
@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(TEXT)))
def test_unknown_keys_and_wrong_values_are_named(changes):
    try:
        built = build(Experiment, changes, "option")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert set(changes) <= set(built.as_dict())


VALUES = {
    "seeds": st.integers(1, 9),
    "temperature": st.floats(0, 2),
    "limit": st.none() | st.integers(1),
    "rejudge": st.booleans(),
    "prompts": WHOLE,
    "judge_log": st.none() | WHOLE,
    "methods": st.lists(st.sampled_from(["sso", "dpo", "more=sso"]), min_size=1),
}


@FAST
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_a_configuration_survives_being_written(tmp_path, values):
    import yaml

    path = tmp_path / "c.yaml"
    experiment = build(Experiment, values, "option")
    path.write_text(yaml.safe_dump(experiment.as_dict(), sort_keys=False), encoding="utf-8")
    assert build(Experiment, load(path), "option").as_dict() == experiment.as_dict()


@FAST
@given(st.text())
def test_any_setting_is_read_or_named(value):
    try:
        found = parse_options([f"sso.beta={value}"])
    except UserError as error:
        assert str(error).startswith("setting ") and "sso.beta=" in str(error) and "\n" not in str(error)
        return
    assert list(found) == ["sso"] and list(found["sso"]) == ["beta"]


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("parquet", "benchmark-rows")])
def test_broken_input_is_never_a_traceback(target, tmp_path, monkeypatch):
    """A few inputs of each target of the fuzzer."""
    monkeypatch.setattr(PLACE, "folder", tmp_path, raising=False)
    trial, draw, valid = Trial(target), random.Random(target), seeds(target, {})
    for number in range(80):
        trial(valid[number] if number < len(valid) else mutate(draw, draw.choice(valid), valid))
    assert not trial.findings
    assert trial.counts["accepted"] and trial.counts["refused"]


def test_the_fuzzer_reports_what_is_wrong(monkeypatch, tmp_path):
    def wrong(data: bytes) -> bool:
        if data == b"fails":
            raise KeyError("x")
        if data == b"hangs":
            while True:
                pass
        return True

    monkeypatch.setitem(TARGETS, "wrong", (wrong, 1))
    monkeypatch.setattr("fuzz.SECONDS", 0.05)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trial = Trial("wrong")
    for data in (b"", b"fails", b"fails", b"hangs"):
        trial(data)
    assert (trial.counts["accepted"], trial.counts["findings"]) == (1, 3)
    assert [found.partition(":")[0] for found in trial.findings] == ["KeyError", "TooLong"]
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"fails", b"hangs"]
