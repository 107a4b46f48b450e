"""Questions that hang together: what a benchmark declares reaches the table of a run folder through its files."""

import json

import numpy as np
import pytest
from command_line import harness
from forged_run import forge

from harness.benchmarks.base import Settings
from harness.benchmarks.math import Math
from harness.benchmarks.mmlu import MMLU
from harness.benchmarks.questions import load_questions
from harness.benchmarks.reward_bench import RewardBench
from harness.runs.scoring import scored
from harness.statistics.grids import grid
from harness.statistics.intervals import differences
from harness.testbed.clusters import clusters
from harness.testbed.suites import write_suites

QUESTIONS, SEEDS = 40, 3


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    write_suites(folder)
    return folder


def run(folder, named):
    """The folder of a run whose scores name these clusters, question -> name; None: scores from before there were any.
    Also the values: method -> seed -> question -> value."""
    rng = np.random.default_rng(0)
    shared = 2.0 * rng.normal(size=(2, QUESTIONS // 4)).repeat(4, axis=1)
    values = {
        name: [list(np.clip(5 + own + rng.normal(size=QUESTIONS), 1, 10)) for _ in range(SEEDS)]
        for name, own in zip(("base", "dpo"), shared, strict=True)
    }
    forge(folder, {"mt-bench": values})
    stored = {}
    for file in folder.glob("arms/*/scores/mt-bench.json"):
        score = json.loads(file.read_text())
        method, _, seed = file.parts[-3].rpartition("-seed")
        stored.setdefault(method, {})[int(seed)] = score["values"]
        score["clusters"] = named
        if named is None:
            score.pop("clusters")
        file.write_text(json.dumps(score))
    return stored


def test_what_scores_declare_reaches_the_table(tmp_path):
    stored = run(tmp_path / "plain", {})
    questions = list(stored["base"][0])
    named = {question: str(place // 4) for place, question in enumerate(questions)}
    run(tmp_path / "run", named)
    table = json.loads(harness("table", "run", "--json", cwd=tmp_path))
    found = table["rows"][1]["cells"]["mt-bench"]["difference"]
    (expected,) = differences([(grid(stored["dpo"], clusters=named), grid(stored["base"], clusters=named))])
    assert found == pytest.approx(vars(expected))
    assert (found["clusters"], table["benchmarks"][0]["clusters"]) == (10, 10)
    alone = json.loads(harness("table", "plain", "--json", cwd=tmp_path))["rows"][1]["cells"]["mt-bench"]["difference"]
    assert alone["clusters"] == 40 and found["error"] > 1.5 * alone["error"]
    assert "40 questions, 10 of them independent; judge" in harness("table", "run", cwd=tmp_path)
    assert "independent" not in harness("table", "plain", cwd=tmp_path)


def test_a_folder_from_before_clusters_is_told(tmp_path):
    run(tmp_path / "run", None)
    text = harness("table", "run", cwd=tmp_path)
    assert "40 questions; judge judge; clusters were not stored: each question counts as independent" in text
    assert json.loads(harness("table", "run", "--json", cwd=tmp_path))["benchmarks"][0]["clusters"] is None


def test_the_testbed_s_questions_hang_together_by_content(suites):
    """Three wordings of one fact are one observation; two turns of MT-Bench have one value already."""
    items = load_questions("reward-bench", suites, Settings())
    named = clusters(items)
    asked = {item["prompt"]: named[item["id"]] for item in items if named.get(item["id"]) == "color of sned"}
    assert len(asked) > 1 and all("color" in question and "sned" in question for question in asked)
    problems = [{"id": "a", "prompt": "What is 12+5?"}, {"id": "b", "prompt": "Add 5 and 12."}]
    assert clusters(problems) == {"a": "5+12", "b": "5+12"}
    assert clusters([{"id": "a", "prompt": "Who are you?"}]) == {}


def test_scoring_stores_them(suites):
    items = load_questions("math", suites, Settings())
    settings = {"protocol": "boxed", "num_fewshot": 0, "chat": True}
    samples = [{"id": item["id"], "strict": True, "extracted": "1", "settings": settings} for item in items]
    found = scored(Math(), items, samples, [], suites)
    shared = [name for name in found.clusters.values() if name == "9+10"]
    assert len(shared) == 3 and len(set(found.clusters.values())) < len(found.clusters) < len(items)


def test_mmlu_hangs_together_by_subject():
    items = [{"id": f"{subject}/{number}", "subject": subject} for subject in "ab" for number in range(2)]
    assert MMLU().clusters(items) == {"a/0": "a", "a/1": "a", "b/0": "b", "b/1": "b"}


def test_reward_bench_hangs_together_by_prompt_and_problem():
    rows = [
        ("alpacaeval-easy", "Say hello."),
        ("alpacaeval-hard", "Say  hello. "),
        ("refusals-offensive", "Say something else."),
        ("hep-cpp", "Write a C++ function `bool has_close_elements(vector<float> numbers)` to solve"),
        ("hep-go", "Write a Go function `func HasCloseElements(numbers []float64) bool` to solve"),
        ("hep-java", "Write a Java function `List<Integer> hasCloseElements(List<Double> numbers)` to solve"),
        ("hep-rust", "Write a Rust function `other(n: i32) -> bool` to solve"),
        ("hep-rust", "No function"),
    ]
    items = [{"id": str(i), "subset": subset, "prompt": prompt} for i, (subset, prompt) in enumerate(rows)]
    found = RewardBench().clusters(items)
    assert found["0"] == found["1"] and found["3"] == found["4"] == found["5"]
    assert len(set(found.values())) == 5
