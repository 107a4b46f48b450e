"""Several files with weights: what is drawn from each, and how a run records it."""

import json
from collections import Counter
from pathlib import Path

import pytest
from command_line import harness

from harness.errors import UserError
from harness.methods.mixtures import TrainingFile, draws, mix, parse_sources, parts_of, passes
from harness.methods.prompts import PromptStream
from harness.types import Prompt


def prompts(name: str, number: int) -> list[Prompt]:
    return [Prompt(f"{name}-{index}", ({"role": "user", "content": f"{name} {index}"},)) for index in range(number)]


def mixture(shares: dict[str, tuple[float, int]]) -> list[Prompt]:
    return mix({TrainingFile(name, share): prompts(name, number) for name, (share, number) in shares.items()})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a.jsonl=0.7,b.jsonl", "'b.jsonl' in"),
        ("a.jsonl=0.7,b.jsonl=0", "'b.jsonl=0'"),
        ("a.jsonl=nan,b.jsonl=1", "'a.jsonl=nan'"),
        ("a.jsonl=1,b.jsonl=many", "FILE=WEIGHT"),
        ("a.jsonl=1,a.jsonl=2", "given twice"),
        ("a.jsonl=1,,b.jsonl=2", "'' in"),
        ("=1,b.jsonl=2", "'=1' in"),
    ],
)
def test_what_is_no_mixture_is_refused(text, complaint):
    with pytest.raises(UserError, match=complaint):
        parse_sources(text)


def test_a_file_whose_name_looks_like_a_mixture_is_one_file(tmp_path):
    file = tmp_path / "a=1,b=2.jsonl"
    file.touch()
    assert parse_sources(str(file)) == [TrainingFile(str(file))]


def test_every_stretch_of_draws_has_the_shares():
    drawn = PromptStream(mixture({"a": (0.7, 5), "b": (0.3, 100)}), 0).take(100)
    sources = [prompt.part[0] for prompt in drawn]
    assert Counter(sources) == {"a": 70, "b": 30}
    for start in range(0, 100, 10):
        assert Counter(sources[start : start + 10]) == {"a": 7, "b": 3}
    of_a = [prompt.id for prompt in drawn if prompt.part[0] == "a"]
    assert sorted(of_a[:5]) == [f"a-{index}" for index in range(5)]  # each pass has every prompt once
    assert sorted(of_a[5:10]) == [f"a-{index}@1" for index in range(5)]
    assert of_a[:5] != [prompt.removesuffix("@1") for prompt in of_a[5:10]]


def test_a_stream_of_a_mixture_goes_on_where_another_stopped():
    mixed = mixture({"a": (0.5, 3), "b": (0.2, 4), "c": (0.3, 50)})
    whole = PromptStream(mixed, 2).take(60)
    for position in (0, 1, 17, 59):
        later = PromptStream(mixed, 2)
        later.position = position
        assert later.take(60 - position) == whole[position:]
    assert [prompt.id for prompt in PromptStream(mixed, 3).take(60)] != [prompt.id for prompt in whole]


def test_passes_are_those_of_the_part_that_is_drawn_most_often_for_its_size():
    mixed = mixture({"a": (0.75, 10), "b": (0.25, 100)})
    assert passes(mixed, 40) == pytest.approx(3)  # 30 draws from 10 prompts
    assert draws(parts_of(mixed), 40) == [30, 10]
    assert passes(prompts("a", 10), 40) == 4


def test_prompts_of_two_sources_are_kept_apart(capsys):
    same = [Prompt("rows-0", ({"role": "user", "content": "Why?"},))]
    other = [Prompt("rows-0", ({"role": "user", "content": "How?"},))]
    mixed = mix({TrainingFile("a/rows.jsonl", 0.5): same, TrainingFile("b/rows.jsonl", 0.5): [*same, *other]})
    assert [(prompt.id, prompt.part[0]) for prompt in mixed] == [
        ("rows-0", "a/rows.jsonl"),
        ("rows-0+", "b/rows.jsonl"),
    ]
    assert "b/rows.jsonl: 1 rows left out: in an earlier source" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"all rows of c\.jsonl"):
        mix({TrainingFile("a.jsonl", 0.5): same, TrainingFile("c.jsonl", 0.5): same})


def test_a_run_on_two_files(tmp_path):
    from harness.testbed.prompts import preferences

    pairs = preferences()[:60]
    for name, rows in (("large", pairs[:50]), ("small", pairs[50:])):
        lines = [{**pair.record, "chosen": pair.chosen, "rejected": pair.rejected} for pair in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ("--method", "dpo", "--benchmark", "math", "--limit", 8, "--budget", "prompts=40", "--name", "mixed")
    given = ("--preferences", "large.jsonl=3,small.jsonl=1")
    harness("run", *arguments, *given, cwd=tmp_path)
    arm = tmp_path / "results/runs/mixed/arms/dpo-seed0"
    rows = [json.loads(line) for line in Path(arm / "preferences/policy.jsonl").read_text().splitlines()]
    assert Counter(row["source"] for row in rows) == {"large.jsonl": 30, "small.jsonl": 10}
    health = json.loads((arm / "health/policy.json").read_text())
    assert health["sources"] == {"large.jsonl": 30, "small.jsonl": 10}
    assert health["epochs"] == 1  # of the small file: 10 of 10
    assert "preferences" in harness(
        "run", *arguments, "--preferences", "large.jsonl=1,small.jsonl=1", cwd=tmp_path, code=2
    )
    table = (tmp_path / "results/runs/mixed/table.md").read_text()
    assert "large.jsonl=3,small.jsonl=1" in table
