"""Benchmarks through the runner: what loading finds reaches the score, samples are one, thoughts are taken off."""

import csv
import json
import shutil
import threading

import pytest
from loopback_judge import serve
from loopback_model import served

from harness.benchmarks.alpaca_annotations import score_annotations
from harness.benchmarks.base import Questions, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.questions import load_questions, sample
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files import store
from harness.runs import run as runner


@pytest.fixture
def judge_url():
    with serve() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def evaluate(tmp_path, url, benchmark, data, **options):
    """The run folder of a live evaluation of a model behind `url`."""
    experiment = Experiment(
        name="live",
        methods=("base",),
        model="served",
        model_url=url,
        data_dir=str(data),
        benchmarks=(benchmark,),
        **options,
    )
    table = runner.run(experiment, tmp_path)
    return table, tmp_path / "runs" / "live" / "arms" / "base-seed0"


def gsm8k_folder(tmp_path, number=3):
    folder = tmp_path / "files" / "gsm8k"
    folder.mkdir(parents=True)
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(10, 10 + number)]
    for name in ("test", "train"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_the_length_controlled_win_rate_of_a_live_run(data_dir, tmp_path, judge_url):
    """As of `harness score` on annotations made of the run's own answers and judgments."""
    data = tmp_path / "files"
    (data / "alpaca_eval").mkdir(parents=True)
    for name in ("reference_gpt4_1106_preview_model_outputs.json.gz", "df_gamed_reconstructed.csv"):
        shutil.copy(data_dir / "alpaca_eval" / name, data / "alpaca_eval" / name)
    with served(lambda asked: (200, asked["messages"][-1]["content"][:80], "stop")) as url:
        table, arm = evaluate(tmp_path, url, "alpaca-eval", data, limit=40, judge_url=judge_url, judge_model="rule")
    score = store.read_json(arm / "scores" / "alpaca-eval.json")
    assert score["details"]["length_controlled_reason"] is None
    outputs = {row["id"]: row["output"] for row in store.read_jsonl(arm / "samples" / "alpaca-eval.jsonl")}
    judged = {row["id"]: row["preference"] for row in store.read_jsonl(arm / "judgments" / "alpaca-eval.jsonl")}
    references = read_rows(data / "alpaca_eval" / "reference_gpt4_1106_preview_model_outputs.json.gz", instruction=str)
    rows = [
        {
            "instruction": references[int(each)]["instruction"],
            "output_1": references[int(each)]["output"],
            "output_2": outputs[each],
            "preference": preference,
        }
        for each, preference in judged.items()
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    gamed = data / "alpaca_eval" / "df_gamed_reconstructed.csv"
    expected = score_annotations(tmp_path / "annotations.json", df_gamed=gamed)
    for name in ("win_rate", "length_controlled_win_rate", "length_controlled_interval", "average_length"):
        assert score["details"][name] == pytest.approx(expected[name])
    (cell,) = [row.cells["alpaca-eval"] for row in table.rows]
    assert cell.length_controlled.value == pytest.approx(expected["length_controlled_win_rate"])
    assert cell.length_controlled.low != cell.length_controlled.high
    mark = store.read_json(arm / "steps" / "score-alpaca-eval.json")["depends_on"]
    assert mark["resources"] == {"df_gamed": store.file_digest(gamed)}

    changed = list(csv.reader(gamed.open()))  # another file: another score, of the same answers
    with gamed.open("w", newline="") as file:
        csv.writer(file).writerows([changed[0], *reversed(changed[1:])])
    with pytest.raises(UserError, match="resources"):
        evaluate(tmp_path, url, "alpaca-eval", data, limit=40, judge_url=judge_url, judge_model="rule")


class Keeping:
    """A benchmark that keeps what it loads in itself."""

    def load(self, data_dir, settings):
        self.found = data_dir
        return [{"id": "1"}]


class Listed:
    def load(self, data_dir, settings):
        return [{"id": str(n)} for n in range(9)]


def test_state_is_refused_and_lists_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda kind, name: {"keeping": Keeping, "listed": Listed}[name]())
    with pytest.raises(UserError, match="benchmark keeping stores found in itself"):
        load_questions("keeping", tmp_path, Settings())
    found = load_questions("listed", tmp_path, Settings(limit=4))
    assert isinstance(found, Questions) and len(found) == 4 and (found.answering, found.scoring) == ({}, {})


@pytest.mark.parametrize("name", registry.names("benchmark"))
def test_no_benchmark_holds_state(name):
    assert vars(registry.load("benchmark", name)) == {}


def test_samples_are_random_the_same_and_in_order():
    items = [{"id": str(n)} for n in range(100)]
    places = sample(items, 10)
    assert places == sorted(places) and len(set(places)) == 10
    assert places != list(range(10)) and places[-1] >= 50
    assert set(places) < set(sample(items, 20))
    turned = items[::-1]
    assert {turned[place]["id"] for place in sample(turned, 10)} == {items[place]["id"] for place in places}
    assert sample(items, None) == sample(items, 100) == sample(items, 500) == list(range(100))


def test_samples_in_proportion_of_sections():
    items = [
        {"id": f"{name}{n}", "section": name} for name, size in (("a", 60), ("b", 30), ("c", 10)) for n in range(size)
    ]
    for limit, expected in ((10, [6, 3, 1]), (20, [12, 6, 2]), (5, [3, 2, 0])):
        drawn = [items[place]["section"] for place in sample(items, limit, "section")]
        assert [drawn.count(name) for name in "abc"] == expected


def test_reward_bench_in_proportion(data_dir, tmp_path):
    whole = load_questions("reward-bench", data_dir, Settings())
    cut = load_questions("reward-bench", data_dir, Settings(limit=100))
    for section in {item["section"] for item in whole}:
        share = sum(item["section"] == section for item in whole) / len(whole)
        assert abs(sum(item["section"] == section for item in cut) - 100 * share) <= 1


REPLIES = {  # a thought, a cut-off thought, and a question restated before its answer
    "What is 10?": ("<think>The answer is 9? No.</think>\n#### 10", "stop"),
    "What is 11?": ("<think>11 it must be. #### 11", "length"),
    "What is 12?": ("**Question:** What is 12?\n\nIt is 10 + 2 = 12.\n#### 12\n\nQuestion: What is 5?\n#### 5", "stop"),
}


def test_thoughts_and_questions_of_a_live_run(tmp_path):
    def answer(asked):
        last = asked["messages"][-1]["content"]
        return 200, *next(reply for question, reply in REPLIES.items() if question in last)

    with served(answer) as url:
        table, arm = evaluate(tmp_path, url, "gsm8k", gsm8k_folder(tmp_path), system_prompt="Be brief.")
    score = store.read_json(arm / "scores" / "gsm8k.json")
    assert score["values"] == {"0": 100, "1": 0, "2": 100}
    assert (score["details"]["thoughts"], score["details"]["unfinished_thoughts"]) == (2, 1)
    rows = {row["id"]: row for row in store.read_jsonl(arm / "samples" / "gsm8k.jsonl")}
    assert rows["0"]["response"] == "#### 10" and rows["0"]["thoughts"][0]["raw"] == REPLIES["What is 10?"][0]
    assert rows["1"]["response"] == "" and rows["1"]["thoughts"][0]["finished"] is False
    assert rows["2"]["response"] == REPLIES["What is 12?"][0] and "thoughts" not in rows["2"]
    notes = "\n".join(table.notes)
    assert "gsm8k, base: 1 answers ended inside a thought" in notes and "system prompt 'Be brief.'" in notes


def test_the_second_turn_sees_no_thought(data_dir, tmp_path, judge_url):
    asked = []

    def answer(request):
        asked.append(request["messages"])
        return 200, "<think>unspoken-thought</think>Plain.", "stop"

    data = tmp_path / "files"
    shutil.copytree(data_dir / "mt_bench", data / "mt_bench")
    options = {"limit": 2, "judge_url": judge_url, "judge_model": "rule", "system_prompt": "Be kind."}
    with served(answer) as url:
        _, arm = evaluate(tmp_path, url, "mt-bench", data, **options)
    second = [messages for messages in asked if len(messages) == 4]
    assert len(second) == 2
    for messages in asked:
        assert messages[0] == {"role": "system", "content": "Be kind."}
        assert "unspoken-thought" not in json.dumps(messages)
    judged = (arm / "judgments" / "mt-bench.jsonl").read_text()
    assert "unspoken-thought" not in judged and "Plain." in judged
    samples = store.read_jsonl(arm / "samples" / "mt-bench.jsonl")
    assert [len(row["thoughts"]) for row in samples] == [2, 2]
