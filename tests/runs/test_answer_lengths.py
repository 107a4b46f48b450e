"""Lengths of answers: formulas by hand, and what a model is asked to measure them."""

from dataclasses import replace
from math import exp, log

import pytest

from harness.benchmarks.loading import benchmarks_of
from harness.engines.transformers import TransformersEngine
from harness.experiment.options import Experiment
from harness.methods.base import Lengths
from harness.runs import answer_lengths
from harness.runs.answer_lengths import finishing, limited, mean_length, passes
from sso.responses import expected_kept


def test_a_mean_with_answers_that_were_cut_off():
    """Two of 10 and 20 tokens ended; two were cut off at 30 and go on for 100: (10 + 20 + 2 * 130) / 4."""
    assert mean_length([(10, True), (30, False), (20, True), (30, False)], 100.0) == 72.5
    assert mean_length([], 100.0) == 100.0


def test_a_limit_by_hand():
    """With a mean of 100 tokens, half of the answers end within 100 ln 2 = 69.3; min(X, 69.3) then has the mean 50."""
    half = 100 * log(2)
    assert finishing(100.0, half) == pytest.approx(0.5)
    assert limited(100.0, half) == pytest.approx(50.0)
    assert limited(100.0, None) == 100.0 and limited(0, 512) == 0


def test_passes_by_hand():
    """Three at once: the longest of three has 1 + 1/2 + 1/3 times the mean. Of nine, six wait: 6 * 60 / 3 more."""
    assert passes(3, 60.0, None, 3) == pytest.approx(110.0)
    assert passes(9, 60.0, None, 3) == pytest.approx(120.0 + 110.0)
    assert passes(9, 60.0, 90, 3) == pytest.approx(6 * 60 * (1 - exp(-1.5)) / 3 + 90)
    assert passes(2, 60.0, None, 16) == pytest.approx(90.0)
    assert passes(0, 60.0, 90, 3) == passes(5, 0.0, 90, 3) == 0.0


def test_queries_with_an_unfinished_response_are_not_kept():
    """0.8 of those with three responses are used (`sso.responses.KEPT`) if each of the three ends, with 0.5 each."""
    assert expected_kept(Lengths(10.0, 5.0, 20.0), 3) == 0.8
    assert expected_kept(Lengths(10.0, 5.0, 20.0, finished=0.5), 3) == pytest.approx(0.1)


def test_a_model_answers_questions_and_prompts_once(testbed_model_dir, tmp_path, monkeypatch):
    """Eight questions of GSM8K and eight prompts; a benchmark without files or without answers in words is left out."""
    (tmp_path / "gsm8k").mkdir()
    row = '{"question": "What is 1 + 1?", "answer": "It is 2. #### 2"}\n'
    for name in ("test", "train"):
        (tmp_path / f"gsm8k/{name}.jsonl").write_text(20 * row)
    experiment = Experiment(
        model=str(testbed_model_dir), data_dir=str(tmp_path), benchmarks=("gsm8k", "ifeval", "mmlu"), batch_size=4
    )
    asked = answer_lengths.asked_of(experiment)
    assert set(asked.questions) == {"gsm8k"} and len(asked.prompts) == 8
    calls = []
    engine = TransformersEngine.load(testbed_model_dir, batch_size=4)
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda *call: calls.append(call) or generate(*call))
    found = answer_lengths.measured(experiment, engine, asked, lambda rows: 0.25 * rows)
    assert [len(prompts) for prompts, _, _ in calls] == [8, 8]
    assert all(sampling.max_new_tokens == 16 for _, _, sampling in calls)  # five seconds, a second a pass
    assert calls[0][2].temperature == 0.0 and calls[1][2].temperature == experiment.temperature
    assert (
        set(found.answers) == {"gsm8k"}
        and 1 <= found.answers["gsm8k"] <= 16 + benchmarks_of(experiment)["gsm8k"].size.answer
    )
    assert found.completion and 1 <= found.completion <= 16 + 256
    assert answer_lengths.asked_of(replace(experiment, completion_tokens=20)).prompts == []
    assert answer_lengths.asked_of(replace(experiment, methods=("dpo",))).prompts == []  # it samples nothing
    assert asked.digest != answer_lengths.asked_of(replace(experiment, completion_tokens=20)).digest
