"""Several runs in one table: what is put together, and what is refused with the reason."""

import json

import pytest

from harness.errors import UserError
from harness.perf.table import write_run
from harness.results.folder import Reader, StoredRun
from harness.results.merging import merge

QUESTIONS, SEEDS = 20, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs a and b: the same base model, and a method of the same kind under the names dpo-1, and dpo-1 and dpo-2."""
    place = tmp_path_factory.mktemp("runs")
    write_run(place / "a", QUESTIONS, SEEDS, [1])
    write_run(place / "b", QUESTIONS, SEEDS, [1, 2])
    return place


def merged(*paths, **options):
    reader = Reader()
    return merge([StoredRun.read(path, reader) for path in paths], **options)


def changed(place, tmp_path, file: str, change) -> object:
    """A copy of run b in which `change` was applied to the content of these JSON files."""
    write_run(tmp_path / "c", QUESTIONS, SEEDS, [1, 2])
    for each in (tmp_path / "c").glob(file):
        content = json.loads(each.read_text())
        change(content)
        each.write_text(json.dumps(content))
    return tmp_path / "c"


def test_methods_of_several_runs_are_kept_apart(place):
    """base has the same scores in both, and stands there once; dpo-2 is in one run alone."""
    table = merged(place / "a", place / "b")
    assert [(row.method, row.run) for row in table.rows] == [
        ("base", None),
        ("a/dpo-1", "a"),
        ("b/dpo-1", "b"),
        ("dpo-2", "b"),
    ]
    assert table.title == "a + b" and table.comparisons == 3 * 4 and table.pairs == 3 * 4
    alone = merged(place / "b")
    shown, known = table.rows[3].cells["math"], alone.rows[2].cells["math"]
    assert (shown.value, shown.low, shown.difference) == (known.value, known.low, known.difference)


def test_base_models_with_other_scores_stay_apart(place, tmp_path):
    def change(score):
        score["values"]["3"] += 1.0
        score["value"] += 1.0 / QUESTIONS

    other = changed(place, tmp_path, "arms/base-seed1/scores/mt-bench.json", change)
    table = merged(place / "a", other)
    assert [row.method for row in table.rows][:2] == ["a/base", "a/dpo-1"]
    assert table.baseline == "a/base" and "c/base" in [row.method for row in table.rows]


def test_base_is_whole_when_runs_have_other_seeds(place, tmp_path):
    write_run(tmp_path / "d", QUESTIONS, 4, [5])
    table = merged(place / "a", tmp_path / "d")
    assert [(row.method, row.seeds) for row in table.rows] == [
        ("base", (0, 1, 2, 3)),
        ("dpo-1", (0, 1, 2)),
        ("dpo-5", (0, 1, 2, 3)),
    ]
    assert "Compared with a, d: seeds 4 instead of 3." not in table.notes
    (note,) = [note for note in table.notes if note.startswith("Unequal seeds")]
    assert note.startswith("Unequal seeds: base 0, 1, 2, 3; dpo-1 0, 1, 2; dpo-5 0, 1, 2, 3. ")
    assert not [note for note in merged(place / "a").notes if note.startswith("Unequal seeds")]


def test_a_deleted_score_is_no_dropped_seed(place, tmp_path):
    write_run(tmp_path / "f", QUESTIONS, SEEDS, [1])
    arm = tmp_path / "f" / "arms" / "dpo-1-seed1"
    mark = arm / "steps" / "score-math.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"files": {"scores/math.json": "0" * 64}}))
    merged(place / "a", tmp_path / "f", baseline="a/dpo-1")
    (arm / "scores" / "math.json").unlink()
    with pytest.raises(UserError, match="scores/math.json was deleted after its step had finished: put it back"):
        merged(place / "a", tmp_path / "f")


def ask(name, value):
    def change(mark):
        target = mark["depends_on"]
        for part in name.split(".")[:-1]:
            target = target[part]
        target[name.split(".")[-1]] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("score-mt-bench", ask("judge", "gpt-4"), "mt-bench was judged by made-up in one and by gpt-4 in the other"),
        (
            "score-mt-bench",
            ask("judge endpoint", "http://127.0.0.1:9/v1"),
            "mt-bench was judged by made-up in both, but not by the same one: judge endpoint",
        ),
        ("samples-math", ask("questions", "others"), 'math has different questions: questions ("math" and "others")'),
        ("samples-math", ask("settings.limit", 10), "math was answered with a different limit (null and 10)"),
        (
            "samples-math",
            ask("settings.temperature", 0.7),
            "math was answered with a different temperature (null and 0.7)",
        ),
        ("samples-*", ask("model.weights", "f00d"), 'they start from different models (weights "00000'),
        ("score-alpaca-eval", ask("judging.both_orders", True), "alpaca-eval was judged with a different both_orders"),
        ("samples-math", ask("option files.reference", "f00d"), "math was asked with different files: reference"),
    ],
)
def test_what_can_not_be_compared_is_refused(place, tmp_path, file, change, reason):
    other = changed(place, tmp_path, f"arms/base-seed0/steps/{file}.json", change)
    with pytest.raises(UserError) as caught:
        merged(place / "a", other)
    told = str(caught.value)
    assert told.startswith(f"{place / 'a'} and {other} cannot be compared: {reason}") and "\n" not in told


def test_testbed_and_real_scores_are_refused(place, tmp_path):
    write_run(tmp_path / "real", QUESTIONS, SEEDS, [1])
    file = tmp_path / "real" / "experiment.yaml"
    file.write_text(file.read_text().replace("data_dir: testbed", "data_dir: data"))
    with pytest.raises(UserError, match="testbed's own suites"):
        merged(place / "a", tmp_path / "real")


def test_unequal_budgets_are_not_refused_and_not_ranked(place, tmp_path):
    def double(ledger):
        ledger["cap_flops"] = 2e12

    other = changed(place, tmp_path, "arms/dpo-*/ledger.json", double)
    rows = {row.method: row for row in merged(place / "a", place / "b", other).rows}
    assert rows["c/dpo-1"].reason == "had a cap of 2e+12 FLOPs, others 1e+12"
    assert rows["c/dpo-1"].cells["math"].rank is None and rows["a/dpo-1"].cells["math"].rank == 1


def test_a_run_without_marks_is_told(place, tmp_path):
    write_run(tmp_path / "e", QUESTIONS, SEEDS, [1])
    (tmp_path / "e" / "arms" / "base-seed0" / "steps" / "score-math.json").unlink()
    with pytest.raises(UserError, match="has no mark of step score-math"):
        merged(place / "a", tmp_path / "e")


def test_the_same_name_twice_is_refused(place, tmp_path):
    write_run(tmp_path / "a", QUESTIONS, SEEDS, [1])
    for other in (place / "a", tmp_path / "a"):
        with pytest.raises(UserError, match="a is given twice"):
            merged(place / "a", other)


def test_a_baseline_that_several_runs_have(place):
    with pytest.raises(UserError, match="several runs have dpo-1: give --baseline a/dpo-1 or another"):
        merged(place / "a", place / "b", baseline="dpo-1")
    assert merged(place / "a", place / "b", baseline="b/dpo-1").rows[0].method == "b/dpo-1"
    with pytest.raises(UserError, match="unknown baseline 'dpo-9'"):
        merged(place / "a", place / "b", baseline="dpo-9")


def test_what_differs_and_may_is_noted(place, tmp_path):
    other = changed(place, tmp_path, "arms/base-seed0/steps/*-math.json", ask("packages", {"torch": "2.99"}))
    file = other / "experiment.yaml"
    file.write_text(file.read_text().replace("options: {}", "options: {dpo-1: {beta: 0.5}}"))
    notes = merged(place / "a", other).notes
    assert notes[-1] == "Compared with a, c: dpo-1.beta 0.5 instead of null; made with other versions (torch)."
