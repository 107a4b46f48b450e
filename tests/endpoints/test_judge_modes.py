"""Every quirk of a judge's server, live: it ends with the right score, or with exit code 2 and what to do about it."""

import json
import shutil

import pytest
from command_line import harness
from openai_endpoint import endpoint
from quirky_judge import MODES, ok, plain

from harness.endpoints.client import KEY_VARIABLE, OpenAIJudge
from harness.files import store

LIMIT = 2
ALPACA = 10.0  # per cent: what P(M) = 0.9 gives an output that is shown as m, and 90 one that is shown as M
CHOSEN = ("--limit", LIMIT, "--judge-model", "quirk", "--json")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without a key, and without the waits between tries."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setitem(OpenAIJudge.__init__.__kwdefaults__, "retries", 1)
    monkeypatch.setitem(OpenAIJudge.__init__.__kwdefaults__, "first_wait", 0.01)


@pytest.fixture(scope="module")
def answered(testbed_model_dir, tmp_path_factory):
    """A folder with the answers of the embedded model, which no judge has seen: every mode has a copy."""
    folder = tmp_path_factory.mktemp("answered")
    with endpoint(lambda asked, _: reply(plain(asked))) as (url, _):
        harness("eval", "testbed", "--benchmark", "mt-bench,alpaca-eval", *CHOSEN, "--judge-url", url, cwd=folder)
    run = folder / "results" / "runs" / "eval-testbed"
    for name in ("judge", "arms/base-seed0/judgments", "arms/base-seed0/scores"):
        shutil.rmtree(run / name)
    for step in run.glob("arms/*/steps/score-*.json"):
        step.unlink()
    (run / "index.json").unlink()
    return folder


def reply(answer):
    return answer[0], {}, answer[1]


class Judged:
    """A copy of the answers, judged by modes of one server."""

    def __init__(self, folder, url, seen):
        self.folder, self.run = folder, folder / "results" / "runs" / "eval-testbed"
        self.url, self.seen, self.mode = url, seen, plain

    def by(self, mode, benchmark, *options, code=0):
        """The table, or what was told with another exit code, and the requests of this call."""
        self.mode = MODES[mode] if isinstance(mode, str) else mode
        before = len(self.seen)
        command = ("eval", "testbed", "--benchmark", benchmark, *CHOSEN, "--judge-url", self.url, *options)
        told = harness(*command, cwd=self.folder, code=code)
        return (told if code else json.loads(told)), self.seen[before:]

    def rows(self):
        return store.read_jsonl(self.run / "judge" / "requests.jsonl")


@pytest.fixture
def judged(answered, tmp_path):
    shutil.copytree(answered, tmp_path / "copy")
    with endpoint(lambda asked, _: reply(made.mode(asked))) as (url, seen):
        made = Judged(tmp_path / "copy", url, seen)
        yield made


def cell(table, benchmark):
    return table["rows"][0]["cells"][benchmark]


def is_seven(table):
    found = cell(table, "mt-bench")
    return (found["value"], found["missing"], found["unparsed"]) == (7.0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("plain", []),
        ("o1_max_tokens", ["max_completion_tokens"]),
        ("pydantic_max_tokens", ["max_completion_tokens"]),
        ("gpt5_temperature", ["no temperature"]),
        ("litellm_temperature", ["no temperature"]),
        ("openrouter_temperature", ["no temperature"]),
        ("tgi_temperature", ["no temperature"]),
        ("gemini_temperature", ["no temperature"]),
        ("system_unsupported", ["no system role"]),
        ("system_unsupported_500", ["no system role"]),
        ("roles_alternate", ["no system role"]),
        ("min16", []),
        ("most1024", ["at most 1024 tokens"]),
        ("o1", ["max_completion_tokens", "no temperature", "no system role"]),
        ("error_in_200", ["max_completion_tokens"]),
        ("list_content", []),
        ("think_first", []),
        ("full_stop", []),
    ],
)
def test_ratings_are_read_in_the_form_that_the_server_wants(judged, mode, form):
    table, _ = judged.by(mode, "mt-bench")
    assert is_seven(table)
    assert [row["form"] for row in judged.rows() if row["reply"]][-1] == form
    said = "wants another form of requests" in " ".join(table["notes"])
    assert said == bool(form) and all(name in " ".join(table["notes"]) for name in form)


@pytest.mark.parametrize(
    ("mode", "form", "said"),
    [
        ("plain", [], ""),
        ("min16", ["at least 16 tokens"], ""),
        (
            "o1",
            ["max_completion_tokens", "no system role", "no log-probabilities", "at least 2048 tokens"],
            "letter of",
        ),
        ("legacy_logprobs", [], ""),
        ("space_token", [], ""),
        ("no_logprobs", [], "letter of"),
        ("no_top", [], "letter of"),
        ("logprobs_refused", ["no log-probabilities"], "letter of"),
        ("ranks_by_text", ["at least 16 tokens"], "letter of"),
        ("thinks_then_letter", ["at least 2048 tokens"], "letter of"),
    ],
)
def test_letters_are_read_in_log_probabilities_or_else_in_the_text(judged, mode, form, said):
    """Where letters come from the text a preference is 1 or 2; the notes name the parser."""
    table, _ = judged.by(mode, "alpaca-eval")
    found, notes = cell(table, "alpaca-eval"), " ".join(table["notes"])
    assert (found["questions"], found["missing"], found["unparsed"]) == (LIMIT, 0, 0)
    rows = store.read_jsonl(judged.run / "arms/base-seed0/judgments/alpaca-eval.jsonl")
    expected = {100.0, 0.0} if said else {ALPACA, 100 - ALPACA}
    asked = [row for row in rows if row["askings"][0]["text"] is not None]  # not a tie of equal outputs
    assert {round(100 * (row["preference"] - 1), 6) for row in asked} <= expected and asked
    assert [row["form"] for row in judged.rows() if row["reply"]][-1] == form
    assert ("regex_parser" in notes) == bool(said)


@pytest.mark.parametrize(
    ("mode", "benchmark", "told"),
    [
        ("wrong_model", "mt-bench", ["The model 'quirk' does not exist", "has no model 'quirk'"]),
        ("no_key", "mt-bench", ["You didn't provide an API key", "needs a key in OPENAI_API_KEY"]),
        ("retired", "mt-bench", ["has been deprecated", "give another judge", "the same command continues"]),
        ("ok200error", "mt-bench", ["Rate limit exceeded: free-models-per-day", "4 of 4 judgments"]),
        ("filter", "mt-bench", ["The response was filtered", "4 of 4 judgments", "--accept-missing"]),
        ("reasoning_none", "mt-bench", ["4 replies were cut at their length", "--judge-max-tokens"]),
        ("reasoning_none", "alpaca-eval", ["replies were cut at their length", "--judge-max-tokens"]),
        ("truncated_rating", "mt-bench", ["4 replies were cut at their length"]),
        ("refusal", "mt-bench", ["4 replies have no verdict", "--rejudge"]),
        ("zero", "mt-bench", ["4 replies have no verdict that counts, such as", "Rating: [[0]]"]),
        ("fraction", "mt-bench", ["Rating: [[7/10]]"]),
        ("single", "mt-bench", ["Rating: [7]"]),
        ("both_missing", "alpaca-eval", ["whose first token is 'Both'", "--judge-set logprobs=false"]),
        ("chatty", "alpaca-eval", ["The model m is better than M."]),
        ("think_first", "alpaca-eval", ["have no verdict that counts"]),
    ],
)
def test_a_judge_that_fails_leaves_the_step_open(judged, mode, benchmark, told):
    """A mended server then finishes it by the same command; --rejudge asks for whole replies without a verdict."""
    said, _ = judged.by(mode, benchmark, code=2)
    assert said.count("error: ") == 1 and all(text in said for text in told), said
    assert not (judged.run / f"arms/base-seed0/steps/score-{benchmark}.json").exists()
    table, seen = judged.by("plain", benchmark, "--rejudge")
    assert cell(table, benchmark)["missing"] == cell(table, benchmark)["unparsed"] == 0 and seen


def test_the_form_is_remembered(judged):
    """Beside the log: a second benchmark, as in another process, is not refused again."""
    _, first = judged.by("o1_max_tokens", "mt-bench")
    assert sum("max_tokens" in asked for asked in first) <= 8  # those on their way when the first was refused
    assert list(store.read_json(judged.run / "judge" / "forms.json").values()) == [["max_completion_tokens"]]
    _, later = judged.by("o1_max_tokens", "mt-bench,alpaca-eval")
    assert later and all("max_completion_tokens" in asked and "max_tokens" not in asked for asked in later)


def test_missing_judgments_are_accepted_or_asked_for_again(judged):
    """Of 4 judgments 1 has no verdict: the score stays open, unless a larger share or any is accepted."""

    def no_verdict_once(asked):
        text = asked["messages"][-1]["content"]
        silent.setdefault("text", text)
        return ok("No." if text == silent["text"] and silent["on"] else "Rating: [[7]]")

    silent = {"on": True}
    said, seen = judged.by(no_verdict_once, "mt-bench", code=2)
    assert "1 of 4 judgments of mt-bench have no verdict, which is more than --judge-missing 0.02" in said
    assert len(seen) == 4
    for options in (("--judge-missing", "0.25"), ("--accept-missing", "--restart-from", "score-mt-bench")):
        table, seen = judged.by(no_verdict_once, "mt-bench", *options)
        assert (cell(table, "mt-bench")["value"], cell(table, "mt-bench")["unparsed"]) == (7.0, 1) and not seen
    silent["on"] = False
    table, seen = judged.by(no_verdict_once, "mt-bench", "--rejudge", "--restart-from", "score-mt-bench")
    assert is_seven(table) and len(seen) == 1


def test_a_cut_reply_is_never_kept(judged):
    """J3: after the server was mended the same command asks for it again, and so does --restart-from."""
    judged.by("truncated_rating", "mt-bench", "--accept-missing")
    assert not any(row["kept"] for row in judged.rows())
    table, seen = judged.by("plain", "mt-bench", "--restart-from", "base/score-mt-bench")
    assert is_seven(table) and len(seen) == 4


def test_options_of_the_judge_change_its_requests_and_the_step(judged):
    fields = ("reasoning_effort=low", "temperature=null", "chat_template_kwargs={thinking: false}")
    options = [word for field in fields for word in ("--judge-set", field)]
    _, seen = judged.by("plain", "mt-bench", "--judge-max-tokens", 77, *options)
    for asked in seen:
        assert (asked["max_tokens"], asked["reasoning_effort"]) == (77, "low")
        assert asked["chat_template_kwargs"] == {"thinking": False} and "temperature" not in asked
    said, _ = judged.by("plain", "mt-bench", code=2)
    assert "judging.max_tokens=77 (now null)" in said and "--restart-from score-mt-bench" in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--judge-set", "max_tokens=5"), "max_tokens: this field cannot be set: give --judge-max-tokens"),
        (("--judge-set", "messages=[]"), "messages: this field cannot be set"),
        (("--judge-set", "temperature"), "write KEY=VALUE"),
        (("--judge-missing", "2"), "'judge_missing' must be at most 1, not 2"),
        (("--judge-max-tokens", "0"), "'judge_max_tokens' must be at least 1"),
    ],
)
def test_options_that_are_none(judged, options, told):
    said, seen = judged.by("plain", "mt-bench", *options, code=2)
    assert told in said and not seen


def test_training_pairs_need_their_verdicts_too(testbed_model_dir, tmp_path):
    """On-policy pairs: a judge without verdicts stops the run, which goes on once it is mended, or with the rest."""

    def judge(asked, _):
        answer = asked["messages"][-1]["content"]
        if state["silent"] and answer.count("The answer is"):
            return reply(ok("I would rather not say."))
        return reply(ok(f"[[{1 + len(answer) % 10}]]"))

    state = {"silent": True}
    with endpoint(judge) as (url, seen):
        command = (
            "run", "--method", "dpo", "--set", "dpo.data=on-policy", "--set", "dpo.batch_size=4", "--benchmark", "math",
            "--budget", "updates=2", *CHOSEN, "--judge-url", url, "--name", "pairs",
        )  # fmt: skip
        said = harness(*command, cwd=tmp_path, code=2)
        assert "judgments of training candidates have no verdict, which is more than --judge-missing 0.02" in said
        assert "'I would rather not say.'" in said and "Step policy-examples stays open" in said
        asked = len(seen)
        harness(*command, cwd=tmp_path, code=2)
        assert len(seen) == asked
        state["silent"] = False
        assert json.loads(harness(*command, "--rejudge", cwd=tmp_path))
        assert len(seen) > asked
