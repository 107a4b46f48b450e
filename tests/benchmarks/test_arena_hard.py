"""Arena-Hard: published formats, both orders, weights, Bradley-Terry, control of style, and a run with a judge."""

import json
import random
import re
import threading
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
from command_line import harness
from loopback_judge import Handler

from harness.benchmarks.arena_hard import ArenaHard, ArenaHardOptions
from harness.benchmarks.arena_hard_rates import Battle, style_controlled, style_difference, win_rate
from harness.benchmarks.base import Judging, Settings
from harness.endpoints.base import JudgeReply
from harness.errors import UserError
from harness.judges.verdicts import parse_arena_verdict

SYSTEM = "Compare the two assistants, and end with one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]]."
OLD = "Q: {question_1}\n<a>{answer_1}</a>\n<b>{answer_2}</b>"
NEW = "Q: {QUESTION}\n<a>{ANSWER_A}</a>\n<b>{ANSWER_B}</b>"


def write(folder, questions, baseline=None, template=OLD):
    (folder / "arena_hard" / "model_answer").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in questions)
    (folder / "arena_hard" / "question.jsonl").write_text(lines)
    config = f"system_prompt: {json.dumps(SYSTEM)}\nprompt_template: {json.dumps(template)}\nmodel_list: [some]\n"
    (folder / "arena_hard" / "judge_config.yaml").write_text(config)
    if baseline:
        lines = "".join(json.dumps(row) + "\n" for row in baseline)
        (folder / "arena_hard" / "model_answer" / "gpt-4-0314.jsonl").write_text(lines)
    return folder


QUESTIONS = [{"uid": f"q{number}", "category": "hard_prompt", "prompt": f"Question {number}?"} for number in range(4)]
BASELINE = [
    {"uid": f"q{number}", "model": "gpt-4-0314", "messages": [{"role": "user", "content": ""}]} for number in range(4)
]
for row, words in zip(BASELINE, (5, 5, 5, 5), strict=True):
    row["messages"].append({"role": "assistant", "content": {"answer": "word " * words}})


class Judge:
    """Says what a table holds by question and order."""

    name, endpoint, price = "rule", None, None

    def __init__(self, said):
        self.said, self.asked = said, []

    def complete(self, requests, advance=None):
        self.asked += requests
        return [JudgeReply(request.id, self.said[request.id], **self.errors(request)) for request in requests]

    def errors(self, request):
        return {"error": "down"} if self.said[request.id] is None else {}


def test_both_orders_and_weights(tmp_path):
    """q0: the model wins strongly and slightly (3 + 1 wins); q1: a tie and a slight loss; q2: a verdict is missing."""
    bench = ArenaHard()
    items = bench.load(write(tmp_path, QUESTIONS, BASELINE), Settings())
    samples = [
        {"id": item["id"], "output": f"answer {item['id']}", "reference": item["reference"], "finished": True}
        for item in items
    ]
    said = {
        "q0/baseline-first": "My final verdict is [[B>>A]]",
        "q0/model-first": "[[B>A]] at first. No: [[A>B]]",
        "q1/baseline-first": "[[A=B]]",
        "q1/model-first": "[[B>A]]",
        "q2/baseline-first": "[[A>B]]",
        "q2/model-first": "[[A>C]]",
        "q3/baseline-first": None,
        "q3/model-first": "[[A>>B]]",
    }
    judge = Judge(said)
    judgments = bench.judge(items, samples, judge, Judging(), None)
    first, second = (request.messages[1]["content"] for request in judge.asked if request.id.startswith("q0"))
    assert first == f"Q: Question 0?\n<a>{'word ' * 5}</a>\n<b>answer q0</b>"
    assert second == f"Q: Question 0?\n<a>answer q0</a>\n<b>{'word ' * 5}</b>"
    assert [row["scores"] for row in judgments] == [[1.0, 1.0, 1.0, 1.0], [0.5, 0.0], [], []]
    score = bench.score(items, samples, judgments)
    assert score.value == pytest.approx(100 * 4.5 / 6)  # outcomes 1 1 1 1, 0.5 0
    total = sum(score.weights[each] * value for each, value in score.values.items())
    assert total / sum(score.weights.values()) == pytest.approx(score.value)
    assert (score.questions, score.missing, score.unparsed, score.judge) == (4, 1, 1, "rule")
    assert score.details["baseline"] == "gpt-4-0314" and score.details["categories"] == {"hard_prompt": score.value}
    assert score.details["controls"] == {"the longest wins": 0.0, "the first wins": 50.0}


def test_win_rate_is_bradley_terry():
    """As the published code computes it: each outcome twice, a tie as a win and a loss, scikit-learn's logistic
    regression with the model at +log 10 and the baseline at -log 10, and the win rate from the ratings (scale 400)."""
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(0)
    battles = [Battle(str(n), [rng.choice((0.0, 0.5, 1.0, 1.0)) for _ in range(2)], "", "") for n in range(60)]
    outcomes = [outcome for each in battles for outcome in each.scores]
    wins = [outcome >= 0.5 for outcome in outcomes] + [outcome == 1.0 for outcome in outcomes]
    features = np.tile([np.log(10), -np.log(10)], (len(wins), 1))
    fitted = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8).fit(features, wins).coef_[0] * 400
    expected = 100 / (1 + 10 ** ((fitted[1] - fitted[0]) / 400))
    assert win_rate(battles)["win_rate"] == pytest.approx(expected, abs=1e-3)
    low, high = win_rate(battles)["win_rate_interval"]
    assert low < expected < high


def test_style_features_by_hand():
    text = "# Title\n\n- one\n- two\n1. three\n\n**bold** and __more__\n```\n# no\n- no\n```"
    length = len(text)
    assert style_difference(text, "x" * length)[0] == 0.0
    header, lists, bold = style_difference(text, "x" * length)[1:]
    assert header == pytest.approx((1 / length) / (1 / length + 1))
    assert lists == pytest.approx((3 / length) / (3 / length + 1))
    assert bold == pytest.approx((2 / length) / (2 / length + 1))


def test_style_control_takes_length_off():
    """A judge whose logit is 0.4 + 2 x with x the length difference; the model is longer, so its win rate is inflated.
    At equal length it is logistic(0.4) = 59.9 %."""
    rng = np.random.default_rng(1)
    battles = []
    for number in range(1500):
        own = int(rng.integers(100, 400))
        battle = Battle(str(number), [], "x" * own, "x" * 150)
        chance = 1 / (1 + np.exp(-0.4 - 2 * style_difference(battle.output, battle.reference)[0]))
        battles.append(Battle(battle.id, [float(rng.random() < chance) for _ in range(2)], battle.output, "x" * 150))
    found = style_controlled(battles)
    assert win_rate(battles)["win_rate"] > 65
    assert found["win_rate"] == pytest.approx(59.9, abs=4)
    assert found["win_rate_interval"][0] < 59.9 < found["win_rate_interval"][1]
    assert style_controlled([Battle("a", [1.0, 1.0], "x", "y")])["win_rate"] is None


@pytest.mark.parametrize("text, verdict", [("[[A<<B]]", "A<<B"), ("[[A>>>B]]", None), ("[[A]]", None), ("A>B", None)])
def test_verdicts(text, verdict):
    assert parse_arena_verdict(text) == verdict


def test_the_published_questions(data_dir, tmp_path):
    """500 questions of v0.1, each with its uid."""
    questions = (data_dir / "prompts" / "arena_hard_v0.1_question.jsonl").read_text()
    write(tmp_path, [])
    (tmp_path / "arena_hard" / "question.jsonl").write_text(questions)
    items = ArenaHard().load(tmp_path, Settings())
    assert len({item["id"] for item in items}) == 500 and {item["category"] for item in items} == {"arena-hard-v0.1"}
    assert items[0]["prompt"] == "Use ABC notation to write a melody in the style of a folk tune."


def test_published_formats(tmp_path):
    """The older v0.1 (question_id, turns, choices) and v2 (two categories, each with its judge prompt)."""
    old = [{"question_id": "a", "category": "arena-hard-v0.1", "turns": [{"content": "Why?"}]}]
    answers = [{"question_id": "a", "model_id": "gpt-4", "choices": [{"index": 0, "turns": [{"content": "So."}]}]}]
    (item,) = ArenaHard().load(write(tmp_path / "old", old, answers), Settings())
    assert (item["prompt"], item["reference"], item["baseline"]) == ("Why?", "So.", "gpt-4")
    new = [*QUESTIONS[:1], {"uid": "c", "category": "creative_writing", "subcategory": "x", "prompt": "A poem?"}]
    folder = write(tmp_path / "new", new, BASELINE, template=NEW)
    with pytest.raises(UserError, match="judge_config_creative_writing.yaml: put config/judge_config.yaml"):
        ArenaHard().load(folder, Settings())
    with pytest.raises(UserError, match="no question of category 'hard'; known: creative_writing, hard_prompt"):
        ArenaHard().load(folder, Settings(options=ArenaHardOptions(category="hard")))
    options = ArenaHardOptions(category="hard_prompt")
    (item,) = ArenaHard().load(folder, Settings(options=options))
    assert item["judge_prompt"] == {"system": SYSTEM, "template": NEW}
    creative = (folder / "arena_hard" / "judge_config.yaml").read_text().replace("Compare", "Weigh")
    (folder / "arena_hard" / "judge_config_creative_writing.yaml").write_text(creative)
    with pytest.raises(UserError, match="no answer of the baseline to 1 of 2 questions, such as c"):
        ArenaHard().load(folder, Settings())
    items = ArenaHard().load(folder, Settings(options=ArenaHardOptions(baseline="base")))
    assert items[1]["judge_prompt"]["system"].startswith("Weigh") and items[1]["reference"] is None


@pytest.mark.parametrize(
    "row, said",
    [({"uid": 1, "prompt": "x"}, "question.jsonl:1: must have uid and prompt"), ({"uid": "x"}, "must have")],
)
def test_bad_questions(row, said, tmp_path):
    with pytest.raises(UserError, match=said):
        ArenaHard().load(write(tmp_path, [row]), Settings())


class Comparing(Handler):
    """Prefers the answer with more capital letters; strongly if the other has none."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        a, b = (len(re.findall("[A-Z]", text.partition(f"<{x}>")[2].partition(f"</{x}>")[0])) for x in "ab")
        verdict = "A=B" if a == b else ("A>>B" if not b else "A>B") if a > b else ("B>>A" if not a else "B>A")
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"[[{verdict}]]"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps({"object": "chat.completion", "model": "capitals", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


def test_the_command(tmp_path, testbed_model_dir):
    """Base and a trained method against the untrained model: base is its own baseline, so a tie without a judge."""
    folder = write(tmp_path, QUESTIONS)
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}, as asked.", "rejected": "NO"} for n in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with ThreadingHTTPServer(("127.0.0.1", 0), Comparing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            asked = ("--judge-model", "capitals", "--judge-url", f"http://127.0.0.1:{server.server_port}/v1")
            train = (
                "--method",
                "dpo",
                "--preferences",
                "pairs.jsonl",
                "--budget",
                "updates=2",
                "--answer-tokens",
                "12",
            )
            words = ("run", *train, "--data-dir", folder, "--benchmark", "arena-hard", "--name", "run", *asked)
            printed = harness(*words, cwd=tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert "Arena-Hard" in printed
    arms = tmp_path / "results/runs/run/arms"
    scores = {name: json.loads((arms / f"{name}-seed0/scores/arena-hard.json").read_text()) for name in ("base", "dpo")}
    assert scores["base"]["value"] == 50 and scores["base"]["details"]["same_as_baseline"] == 4
    rows = [json.loads(line) for line in (arms / "dpo-seed0/judgments/arena-hard.jsonl").read_text().splitlines()]
    outcomes = [outcome for row in rows for outcome in row["scores"]]
    assert scores["dpo"]["value"] == pytest.approx(100 * sum(outcomes) / len(outcomes))
    assert scores["dpo"]["details"]["baseline"] == "base"
