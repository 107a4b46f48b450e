"""Audits of judges: measures by hand and by outside libraries, and judges of known faults through the command."""

import csv
import hashlib
import json
import random
from contextlib import contextmanager

import numpy as np
import pytest
from command_line import harness
from gpt4_verdicts import NAME, Stored, completion, read_pair, serving_stored, write_labels
from loopback_json import json_server

from harness.judge_audit import fitness, measures
from harness.judge_audit.labels import load_sets, read_labels, sample
from harness.judge_audit.measures import Choices, Ratings
from harness.statistics.intervals import Interval

A, TIE, B = 1.0, 0.5, 0.0


def choices_of(labels, first, second, a_longer=None, a_own=None, questions=None):
    n = len(labels)
    return Choices(
        np.array(labels, float),
        np.array([first, second], float).T,
        np.array([0] * n if a_longer is None else a_longer),
        np.array([0] * n if a_own is None else a_own),
        np.arange(n) if questions is None else np.array(questions),
    )


def test_agreement_by_hand():
    """Labels A A B B, the judge A tie B A in both orders.

    Disagreements 0, 1/2, 0, 1: agreement 1 - 1.5/4. Expected by chance: label A (1/2) against A, tie, B of 1/2, 1/4,
    1/4: 1/8 + 1/4; label B: 1/2 + 1/8; mean 1/2. kappa = 1 - 0.375/0.5. alpha (nominal) of the 8 askings: D_o = 1/2;
    values A 8, tie 2, B 6 of n = 16: D_e = (256 - 64 - 4 - 36) / (16 * 15) = 152/240; 1 - 0.5 * 240/152.
    """
    found = measures.of_pairs(choices_of([A, A, B, B], [A, TIE, B, A], [A, TIE, B, A]))
    assert found["agreement"].value == pytest.approx(0.625)
    assert found["kappa"].value == pytest.approx(0.25)
    assert found["alpha"].value == pytest.approx(1 - 0.5 * 240 / 152)
    assert found["ties"].value == 0.25
    assert found["consistent"].value == 1 and found["same_place"].value == 0
    assert found["first"].value == 0.5
    assert found["own_gain"] is None and found["better_longer"] is None  # no own answers, no lengths


def test_alpha_of_ratings_by_hand():
    """Labels 1 2 3, ratings 1 3 3: D_o = 1/3; pooled 1 2 3 1 3 3 has the sum 13 and squares 33, D_e = 2 (6 * 33 -
    169) / 30 = 58/30; alpha = 1 - 10/58. Quadratic kappa: E(x - y)^2 = 1/3; var x = 2/3, var y = 8/9, means 2 and 7/3:
    1 - (1/3) / (2/3 + 8/9 + 1/9) = 0.8."""
    n = np.ones(3)
    found = measures.of_ratings(Ratings(np.array([1.0, 2, 3]), np.array([1.0, 3, 3]), n, n > 1, np.arange(3)))
    assert found["alpha"].value == pytest.approx(48 / 58)
    assert found["kappa"].value == pytest.approx(0.8)
    assert found["bias"].value == pytest.approx(1 / 3)
    assert found["slope"].value == pytest.approx(1.0)


def test_formulas_equal_the_libraries():
    """0.3780495 and 0.7836816 are what krippendorff 0.9.0 gives for this data, nominal and interval."""
    rng = np.random.default_rng(3)
    labels = rng.choice([A, TIE, B], 200)
    judged = np.where(rng.random(200) < 0.4, labels, rng.choice([A, TIE, B], 200))
    counts = np.zeros(9)
    np.add.at(counts, (6 * labels + 2 * judged).astype(int), 1)
    assert measures.weighted_kappa(counts) == pytest.approx(measures.library_kappa(labels, judged))
    nominal = measures.library_alpha(labels, judged, on_scale=False)
    assert measures.nominal_alpha(counts) == pytest.approx(nominal)
    assert nominal == pytest.approx(0.3780495, abs=1e-7)
    x = rng.integers(1, 11, 100).astype(float)
    y = np.clip(x + rng.integers(-3, 4, 100), 1, 10)
    sums = measures.moments(x, y).sum(0)
    on_scale = measures.library_alpha(x, y, on_scale=True)
    assert measures.interval_alpha(sums) == pytest.approx(on_scale)
    assert on_scale == pytest.approx(0.7836816, abs=1e-7)
    from sklearn.metrics import cohen_kappa_score

    whole = [str(each) for each in range(1, 11)]
    by_library = cohen_kappa_score(
        [str(int(each)) for each in x], [str(int(each)) for each in y], labels=whole, weights="quadratic"
    )
    assert measures.concordance(sums) == pytest.approx(by_library)


def test_length_by_hand():
    """Six pairs whose better answer is the longer, two where it is the shorter. Whoever takes the longer answer agrees
    in 6 of 8, which is above chance, and sees nothing: 1 + 0 - 1 = 0; it gives (1 - 0) / 2 to the longer side."""
    labels, a_longer = [A, B] * 4, [1, -1] * 3 + [-1, 1]
    longer = [A, B] * 3 + [B, A]
    found = measures.of_pairs(choices_of(labels, longer, longer, a_longer))
    assert found["agreement"].value == 0.75 and found["kappa"].value == 0.5
    assert (found["better_longer"].value, found["better_shorter"].value) == (1, 0)
    assert found["beyond_length"].value == 0 and found["longer_gain"].value == 0.5


def test_own_model_by_hand():
    """Own answers in three pairs, at A, B and A, people for A each time: they prefer them in 2 of 3, the judge in 3."""
    found = measures.of_pairs(choices_of([A, A, A, B], [A, B, A, B], [A, B, A, B], a_own=[1, -1, 1, 0]))
    assert found["own_gain"].value == pytest.approx(1 / 3)


def test_pairs_of_one_question_are_resampled_together():
    alone = measures.of_pairs(choices_of([A, B] * 20, [A, A] * 20, [A, A] * 20))["agreement"]
    copied = choices_of([A, B] * 20, [A, A] * 20, [A, A] * 20, questions=[n // 4 for n in range(40)])
    together = measures.of_pairs(copied)["agreement"]
    assert alone.low < together.low == together.high == 0.5  # each question has two that agree and two that do not
    one = measures.of_pairs(choices_of([A, B], [A, B], [A, B], questions=[0, 0]))["agreement"]
    assert one.value == 1 and np.isnan(one.low)


def test_detectable_difference_by_hand():
    """z(0.975) + z(0.8) = 1.959964 + 0.841621; sqrt(1 / 1610) = 0.0249222; product 0.0698217; / 0.6 for q = 0.8."""
    assert measures.detectable_difference(1.0, 805) == pytest.approx(0.0698217, abs=1e-6)
    assert measures.detectable_difference(0.8, 805) == pytest.approx(0.1163695, abs=1e-6)
    assert measures.detectable_difference(0.5, 805) == float("inf")
    assert measures.detectable_difference(float("nan"), 805) == float("inf")
    assert measures.detectable_points(0.5, 2.0, 80) == pytest.approx(2.801585 * (2 / 80) ** 0.5 * 2.0 / 0.5, rel=1e-6)
    assert measures.detectable_points(0.0, 2.0, 80) == float("inf")


def test_detectable_difference_is_found_with_its_power():
    """Two methods that differ by just this much, judged with 20 % of wrong verdicts: 80 % of z tests see it."""
    q, n, rng = 0.8, 805, np.random.default_rng(0)
    apart = measures.detectable_difference(q, n)
    seen = [rng.binomial(n, q * w + (1 - q) * (1 - w), 20_000) / n for w in (0.5 + apart / 2, 0.5 - apart / 2)]
    error = np.sqrt(sum(rate * (1 - rate) / n for rate in seen))
    assert np.mean(np.abs(seen[0] - seen[1]) / error > 1.959964) == pytest.approx(0.8, abs=0.02)


def test_the_rule_needs_enough_questions_and_names_all_sets():
    few = fitness.of_pairs(measures.of_pairs(choices_of([A, B] * 10, [A, B] * 10, [A, B] * 10)), 20, 0.0)
    assert few.fit is None and "20 questions" in few.sentence
    fit = fitness.Fitness(True, 9.0, 11.0, fitness.PAIR_QUESTIONS, (), ())
    rated = fitness.Fitness(True, 0.5, 0.6, fitness.RATING_QUESTIONS, (), ())
    assert fitness.overall("j", {"x": fit, "y": few})[0] is None
    ok, text = fitness.overall("j", {"x": fit, "z": rated})
    assert ok and "9.0 points of win rate (805 questions) and by 0.5 points of the rating (80 questions)" in text
    bad = fitness.Fitness(False, None, None, fitness.PAIR_QUESTIONS, ("it guesses",), ())
    ok, text = fitness.overall("j", {"x": fit, "bad": bad})
    assert ok is False and "by bad: it guesses" in text and "fit by x" in text
    assert fitness.above(Interval(1.0, float("nan"), float("nan")), 0) is False


def test_the_rule_about_length_needs_answers_of_both_kinds():
    """Right in all of 40 pairs. Where the better answer is always the longer, so is whoever takes the longer one."""
    labels = [A, B] * 20
    fits = {
        name: fitness.of_pairs(measures.of_pairs(choices_of(labels, labels, labels, a_longer)), 40, 0.0)
        for name, a_longer in (("longer", [1, -1] * 20), ("equal", [0] * 40), ("both", [1, -1, -1, 1] * 10))
    }
    assert [fits[name].fit for name in ("longer", "equal", "both")] == [None, True, True]
    assert "no better answer among the labels is the shorter one" in fits["longer"].sentence
    ratings = np.arange(1.0, 11).repeat(4)
    for lengths, fit in ((np.full(40, 9.0), True), (2**ratings, False)):  # of one length; wholly explained by it
        found = measures.of_ratings(Ratings(ratings, ratings, lengths, ratings > 99, np.arange(40)))
        assert fitness.of_ratings(found, 40, 0.0).fit is fit


def test_a_local_model_as_the_judge(pairs_file, testbed_model_dir, tmp_path):
    """The embedded model knows nothing of judging."""
    words = ("judge", "audit", "--judge-engine", "testbed", "--labels", pairs_file, "--limit", "5")
    harness(*words, cwd=tmp_path, code=1)
    (file,) = tmp_path.glob("results/audits/*/audit.json")
    (found,) = json.loads(file.read_text())["sets"]
    assert found["usd"] == 0 and found["failed"] + found["unparsed"] == 10 == found["askings"]
    assert "100% of what it was asked has no verdict" in found["verdict"]


@pytest.mark.parametrize("command", [("judge", "audit"), ("rejudge",)])
def test_help_has_examples(command, tmp_path):
    text = " ".join(harness(*command, "--help", cwd=tmp_path).split())
    assert f"harness {' '.join(command)}" in text and "--judge-url" in text


# Judges of known faults, through the command. A good answer says "right"; it is the longer one in 70 % of the pairs.

QUESTIONS = 120


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    rng = random.Random(1)
    rows = []
    for number in range(QUESTIONS):
        texts = {"right": "It is right. ", "wrong": "It is wrong. "}
        longer = "right" if number % 10 < 7 else "wrong"
        texts[longer] += "And there is more to say about it. " * rng.randint(1, 9)
        order = ["right", "wrong"] if number % 2 else ["wrong", "right"]
        models = {"right": "other", "wrong": "own-model"}
        rows.append(
            {"question": f"Question {number}?", "answer_a": texts[order[0]], "answer_b": texts[order[1]]}
            | {"label": "AB"[order.index("right")], "model_a": models[order[0]], "model_b": models[order[1]]}
        )
    return write_csv(tmp_path_factory.mktemp("labels") / "pairs.csv", rows)


@pytest.fixture(scope="module")
def ratings_file(tmp_path_factory):
    rng = random.Random(2)
    rows = [
        {"question": f"Question {number}?", "answer": f"Worth {number % 10 + 1}." + " More." * rng.randint(0, 40)}
        | {"rating": number % 10 + 1}
        for number in range(QUESTIONS)
    ]
    return write_csv(tmp_path_factory.mktemp("labels") / "ratings.csv", rows)


def write_csv(file, rows):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def chance(text, what=""):
    """A number within [0, 1) that depends on a text alone."""
    return int(hashlib.sha256((what + text).encode()).hexdigest()[:8], 16) / 2**32


def better(text):
    return "A" if "right" in read_pair(text)[1] else "B"


def noisy(text, share=0.1):
    return better(text) if chance(text) >= share else {"A": "B", "B": "A"}[better(text)]


def longer(text):
    _, first, second = read_pair(text)
    return "A" if len(first) > len(second) else "B"


@contextmanager
def judging(rule):
    """URL of a judge that says what rule(prompt) says, and the prompts that it was asked. None: the request fails."""
    asked = []

    def answer(_, body):
        asked.append(body["messages"][-1]["content"])
        said = rule(asked[-1])
        if said is None:
            return 400, {"error": {"message": "content filtered", "code": "content_filter", "type": "invalid"}}
        return 200, completion(said, "my-judge")

    with json_server(answer) as url:
        yield f"{url}/v1", asked


def audited(place, url, *options, code):
    """The report, or the error where that is what the exit code says."""
    words = ("judge", "audit", "--judge-model", "my-judge", "--judge-url", url, *options, "--json")
    if code != 1:
        text = harness(*words, cwd=place, code=code)
        return json.loads(text) if code == 0 else text
    harness(*words, cwd=place, code=1)
    (file,) = place.glob("results/audits/*/audit.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    "rule, reason",
    [
        (
            lambda text: "[[A]]",
            "the place decides: in 100% of pairs the same place wins in both orders, mostly the first",
        ),
        (lambda text: "[[B]]", "mostly the second"),
        (lambda text: f"[[{longer(text)}]]", "length explains its choices: it takes the longer answer"),
        (lambda text: f"[[{'AB'[longer(text) == 'A']}]]", "length explains its choices: it takes the shorter answer"),
        (lambda text: f"[[{'AB'[chance(text) < 0.5]}]]", "its agreement with the labels is not above chance"),
        (lambda text: "[[C]]", "its agreement with the labels is not above chance"),
        (lambda text: f"[[{better(text)}]]" if chance(text) < 0.5 else "Both have merits.", "has no verdict"),
        (lambda text: f"[[{better(text)}]]" if chance(text) < 0.5 else None, "has no verdict"),
    ],
    ids=["first", "second", "longer", "shorter", "random", "tie", "unparsed", "failing"],
)
def test_a_judge_that_is_unfit(rule, reason, pairs_file, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with judging(rule) as (url, asked):
        report = audited(tmp_path, url, "--labels", pairs_file, "--limit", QUESTIONS, code=1)
    assert report["fit"] is False and "is not fit to rank" in report["verdict"]
    (found,) = report["sets"]
    assert reason in found["verdict"], found["verdict"]
    assert found["difference"] is None
    assert len(asked) == 2 * QUESTIONS == found["askings"]
    without = sum(found[name] for name in ("failed", "unparsed"))
    if reason == "has no verdict":
        assert without == pytest.approx(QUESTIONS, rel=0.2)  # half of 240
        assert (found["failed"] > 0) == (rule(next(text for text in asked if chance(text) >= 0.5)) is None)
    else:
        assert without == 0


def test_the_longer_answer_is_better_than_chance_and_still_unfit(pairs_file, tmp_path):
    """What makes the rule about length needed: on these labels the longer answer is right in 70 %."""
    with judging(lambda text: f"[[{longer(text)}]]") as (url, _):
        (found,) = audited(tmp_path, url, "--labels", pairs_file, "--limit", QUESTIONS, code=1)["sets"]
    assert found["measures"]["agreement"]["value"] == pytest.approx(0.7, abs=0.01)
    assert found["measures"]["kappa"]["low"] > 0
    assert found["measures"]["beyond_length"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_judge_with_a_tenth_of_noise_is_fit(pairs_file, tmp_path):
    with judging(lambda text: f"[[{noisy(text)}]]") as (url, asked):
        options = ("--labels", pairs_file, "--limit", QUESTIONS, "--judge-price", "1,2")
        report = audited(tmp_path, url, *options, code=0)
        again = audited(tmp_path, url, *options, code=0)
        assert len(asked) == 2 * QUESTIONS and again == report  # nothing is asked twice
        printed = harness("judge", "audit", "--judge-model", "my-judge", "--judge-url", url, *options, cwd=tmp_path)
    assert report["fit"] is True
    (found,) = report["sets"]
    share = np.mean([noisy(text) == better(text) for text in asked])
    assert 0.85 < share < 0.95
    of = found["measures"]
    assert of["agreement"]["value"] == pytest.approx(share)
    assert of["kappa"]["value"] == pytest.approx(2 * share - 1, abs=0.01)  # labels are A and B in halves
    assert of["kappa"]["low"] < 2 * share - 1 < of["kappa"]["high"]
    assert found["difference"] == pytest.approx(100 * 0.0698217 / (2 * share - 1), rel=1e-4)
    assert found["cautious_difference"] > found["difference"]
    assert found["usd"] == pytest.approx(2 * QUESTIONS * (10 * 1 + 2 * 2) / 1e6)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (2400, 480)
    assert "is fit to rank methods that differ by" in printed
    (stored,) = (tmp_path / "results" / "audits").glob("my-judge-*/audit.json")
    assert json.loads(stored.read_text()) == report


def test_a_judge_that_prefers_its_own_model(pairs_file, tmp_path):
    """The wrong answers are of own-model; one in five that it should refuse it takes."""

    def rule(text):
        return f"[[{noisy(text, 0.2)}]]"

    with judging(rule) as (url, asked):
        options = ("--labels", pairs_file, "--limit", QUESTIONS)
        report = audited(tmp_path, url, *options, "--own-model", "org/Own_Model", code=0)
        without = audited(tmp_path, url, *options, code=0)
    wrong = np.mean([noisy(text, 0.2) != better(text) for text in asked])
    found = report["sets"][0]
    assert found["own_answers"] == QUESTIONS
    assert found["measures"]["own_gain"]["value"] == pytest.approx(wrong)
    assert f"it prefers its own model's answers by {100 * wrong:.1f} points" in found["verdict"]
    assert without["sets"][0]["measures"]["own_gain"] is None


def rated(text):
    return int(text.rpartition("Worth ")[2].partition(".")[0])


@pytest.mark.parametrize(
    "rule, fit, reason",
    [
        (lambda text: "[[7]]", False, "not above chance"),
        (lambda text: f"[[{1 + text.count(' More.') // 5}]]", False, "not above chance"),
        (lambda text: f"[[{min(10, max(1, rated(text) + int(4 * chance(text)) - 2))}]]", True, "points of the rating"),
    ],
    ids=["constant", "length", "noisy"],
)
def test_ratings(rule, fit, reason, ratings_file, tmp_path):
    with judging(rule) as (url, asked):
        report = audited(tmp_path, url, "--labels", ratings_file, "--limit", QUESTIONS, code=0 if fit else 1)
    assert report["fit"] is fit and reason in report["sets"][0]["verdict"]
    assert len(asked) == QUESTIONS
    if fit:
        labels = np.array([rated(text) for text in asked], float)
        given = np.array([int(rule(text).strip("[]")) for text in asked], float)
        slope = np.polyfit(labels, given, 1)[0]
        found = report["sets"][0]
        assert found["measures"]["slope"]["value"] == pytest.approx(slope)
        expected = 2.801585 * np.sqrt(2 / 80) * given.std(ddof=1) / slope
        assert found["difference"] == pytest.approx(expected, rel=1e-5)


def test_length_that_explains_ratings(tmp_path):
    """Labels that go with length, and a judge that sees length alone: correlated, and no better than a ruler."""
    rng = random.Random(4)
    rows = [
        {
            "question": f"Q{n}?",
            "answer": "x" * (8 << (n % 10)),
            "rating": min(10, max(1, n % 10 + 1 + rng.randint(-2, 2))),
        }
        for n in range(100)
    ]
    with judging(lambda text: f"[[{text.count('x' * 4).bit_length()}]]") as (url, _):
        report = audited(tmp_path, url, "--labels", write_csv(tmp_path / "r.csv", rows), "--limit", 100, code=1)
    (found,) = report["sets"]
    assert found["measures"]["kappa"]["low"] > 0 and "not shown to see more than length" in found["verdict"]


def test_a_sample_is_seeded(pairs_file, tmp_path):
    samples = []
    for place, seed in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / place).mkdir()
        with judging(lambda text: f"[[{better(text)}]]") as (url, asked):
            audited(tmp_path / place, url, "--labels", pairs_file, "--limit", 40, "--seed", seed, code=0)
        samples.append({read_pair(text)[0] for text in asked})
        assert len(asked) == 80
    assert samples[0] == samples[1] != samples[2]
    assert samples[0] != {f"Question {number}?" for number in range(40)}
    labels = read_labels(pairs_file)
    assert {row.id for row in sample(labels, 40, 0)} < {row.id for row in sample(labels, 50, 0)}


@pytest.mark.parametrize(
    "text, said",
    [
        ("question,answer_a,answer_b,label\nq,x,y,A\nq,x,y,C\n", "l.csv:3: field 'label' must be A, B or tie, not 'C'"),
        ("question,answer_a,answer_b,label\nq,x,x,A\n", "l.csv:2: field 'label' prefers A, but answer_a and answer_b"),
        ("question,answer_a,answer_b,label\n ,x,y,A\n", "l.csv:2: field 'question' must be a text"),
        ("question,answer,rating\nq,x,11\n", "l.csv:2: field 'rating' must be a number from 1 to 10, not '11'"),
        ("question,answer,rating\nq,x,nan\n", "l.csv:2: field 'rating'"),
        ("question,answer,rating\nq,x,good\n", "l.csv:2: field 'rating'"),
        ("question,answer\nq,x\n", "l.csv:2: give pairs with the columns question, answer_a, answer_b, label"),
        ("question,answer_a,answer_b,label\nq,x\n", "l.csv:2: expected 4 fields"),
        ("question,answer_a,answer_b,label\n", "holds no rows"),
        ("", "holds no rows"),
    ],
)
def test_bad_labels(text, said, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with judging(lambda _: "[[A]]") as (url, asked):
        assert said in audited(tmp_path, url, "--labels", "l.csv", code=2)
    assert not asked


def test_labels_in_json_lines(tmp_path):
    rows = [{"question": "q", "answer_a": "x", "answer_b": "y", "label": "tie", "model_a": None, "more": 1}]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (pair,) = read_labels(tmp_path / "l.jsonl").rows
    assert (pair.question, pair.a, pair.b, pair.label, pair.model_a) == ("q", "x", "y", TIE, None)
    (tmp_path / "l.jsonl").write_text(json.dumps(rows[0] | {"answer_b": 3}) + "\n")
    with judging(lambda _: "[[A]]") as (url, _):
        said = audited(tmp_path, url, "--labels", "l.jsonl", code=2)
    assert "l.jsonl:1: field 'answer_b' must be a text, not 3" in said


def test_what_cannot_be_audited(pairs_file, tmp_path):
    assert "no judge was chosen" in harness("judge", "audit", "--labels", pairs_file, cwd=tmp_path, code=2)
    with judging(lambda _: "[[A]]") as (url, asked):
        assert "no label set in data" in audited(tmp_path, url, code=2)
        assert "did you mean 'llmbar'" in audited(tmp_path, url, "--label-sets", "llmbr", code=2)
        assert "label set llmbar: no rewardbench" in audited(tmp_path, url, "--label-sets", "llmbar", code=2)
        both = audited(tmp_path, url, "--label-sets", "llmbar", "--labels", pairs_file, code=2)
        assert "not both" in both and not asked
    assert "can" in audited(tmp_path, url, "--labels", pairs_file, code=2)  # the server is gone


# The given data


def test_built_in_sets(data_dir):
    """Counted in the files: 100 and 319 pairs of LLMBar, 1,392 of auto-j, 5 x 805 annotations without the attack's."""
    sets, absent = load_sets(data_dir, [])
    assert not absent
    by_name = {each.name: each for each in sets}
    assert [len(by_name[name].rows) for name in ("llmbar", "llmbar-adversarial")] == [100, 319]
    auto_j = by_name["auto-j"]
    assert len(auto_j.rows) + sum(auto_j.left_out.values()) == 1392
    labels = [row.label for row in auto_j.rows]
    assert sum(map(labels.count, (A, B, TIE))) == len(labels) and labels.count(A) <= 520
    alpaca = by_name["alpaca-eval"]
    assert alpaca.left_out["answers that attack the annotator"] == 805
    assert len(alpaca.rows) + sum(alpaca.left_out.values()) == 6 * 805
    assert alpaca.rows[0].model_a == "gpt4_1106_preview"
    rated = by_name["mt-bench"]
    # 320 of two Claudes; 170 of Llama, with 4 $ERROR$ and 10 that were rated twice; 160 of Griffin, without answers
    assert len(rated.rows) == 480 and rated.left_out == {"without a label": 4, "without a stored answer": 160}
    some = sample(rated, 40, 0)
    assert len(some) >= 79 and len({row.unit for row in some}) == 40


def test_gpt4_as_a_judge(data_dir, tmp_path):
    """GPT-4's stored verdicts on LLMBar against people's labels, and its own ratings against themselves."""
    stored = Stored(data_dir)
    assert len(stored.pairs) == 120
    write_labels(stored, tmp_path / "llmbar.csv")
    with serving_stored(stored) as url:
        words = ("judge", "audit", "--judge-model", NAME, "--judge-url", url, "--limit", "200", "--json")
        report = json.loads(harness(*words, "--labels", "llmbar.csv", cwd=tmp_path))
        data = ("--label-sets", "mt-bench", "--data-dir", data_dir)
        itself = json.loads(harness(*words, *data, cwd=tmp_path))["sets"][0]
    assert report["fit"] is True
    (found,) = report["sets"]
    assert found["unparsed"] == found["failed"] == 0
    assert 0.75 < found["measures"]["agreement"]["value"] < 0.92  # published: 0.80 to 0.955 by subset and prompt
    assert itself["unparsed"] == 0
    assert itself["measures"]["kappa"]["value"] > 0.97  # ten answers were rated twice
