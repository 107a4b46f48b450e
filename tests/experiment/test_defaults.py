"""Defaults of methods' options by the size of the model."""

import pytest

from harness.errors import UserError
from harness.experiment import defaults
from harness.experiment.options import Experiment
from harness.experiment.search import LogUniform
from harness.files import store
from harness.runs import run as runner
from harness.testbed import prompts


def test_the_scale_of_a_model(tiny_model_dir, testbed_model_dir):
    assert defaults.scale_of("testbed") == "testbed"
    assert defaults.scale_of(str(tiny_model_dir)) == "small"
    assert defaults.scale_of("Qwen/Qwen2-7B-Instruct") == "large"  # of the presets' list
    assert defaults.scale_of("nobody/knows") == "large"


def test_defaults_are_those_of_the_scale_unless_they_are_set(tiny_model_dir):
    own = Experiment(methods=("sso", "self-rewarding"))
    options = own.method_options("sso")
    assert (options.learning_rate, options.beta, options.principle_set) == (1e-4, 0.2, "testbed")
    chosen = Experiment(
        model=str(tiny_model_dir), methods=("sso", "dpo", "self-rewarding"), options={"dpo": {"beta": 0.3}}
    )
    options = chosen.method_options("sso")
    assert (options.learning_rate, options.beta, options.principle_set) == (1e-6, 0.1, "general")
    assert (chosen.method_options("dpo").learning_rate, chosen.method_options("dpo").beta) == (1e-6, 0.3)
    assert chosen.method_options("self-rewarding").judge_prompt == "additive"
    large = Experiment(methods=("dpo",), scale="large").method_options("dpo")
    assert (large.learning_rate, large.batch_size) == (5e-7, 128)
    with pytest.raises(UserError, match="unknown scale 'huge'"):
        Experiment(scale="huge")


def test_tuning_tries_rates_around_the_default(tiny_model_dir):
    assert Experiment(methods=("dpo",)).search_space("dpo")["learning_rate"] == LogUniform(3e-5, 5e-4)
    small = Experiment(methods=("dpo",), model=str(tiny_model_dir), tune=2)
    assert small.search_space("dpo")["learning_rate"] == LogUniform(3e-7, 5e-6)
    assert [trial.learning_rate <= 5e-6 for trial in small.trial_options("dpo")] == [True, True]
    assert "learning_rate" in small.tuned("dpo")


def test_a_run_says_its_defaults_and_keeps_their_scale(tmp_path, tiny_model_dir, capsys):
    store.write_jsonl(tmp_path / "pairs.jsonl", map(vars, prompts.preferences()[:16]))
    chosen = Experiment(
        methods=("dpo",), model=str(tiny_model_dir), preferences=str(tmp_path / "pairs.jsonl"), budget="updates=1",
        benchmarks=("math",), limit=1, answer_tokens=2, options={"dpo": {"batch_size": 4}},
    )  # fmt: skip
    runner.run(chosen, tmp_path)
    said = capsys.readouterr().err
    assert "dpo: defaults of a small model: learning_rate 1e-06, beta 0.1 (--set dpo.NAME=VALUE)" in said
    run = tmp_path / "runs" / "experiment"
    assert "scale: small" in (run / "experiment.yaml").read_text()
    mark = store.read_json(run / "arms" / "dpo-seed0" / "steps" / "policy.json")
    assert mark["depends_on"]["training"]["learning_rate"] == 1e-6
