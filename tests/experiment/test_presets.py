"""Configurations that extend each other, and the presets."""

from pathlib import Path

import pytest

from harness.benchmarks.loading import benchmarks_of
from harness.commands.options import experiment
from harness.errors import UserError
from harness.experiment import configuration, presets
from harness.experiment.options import Experiment
from harness.files.typed import build
from harness.models.packaged import PACKAGED

PAPERS = [name for name in configuration.names() if name not in (configuration.COMMON, "smollm2-135m")]


@pytest.mark.parametrize("name", PAPERS)
def test_a_preset_is_a_whole_experiment(name):
    preset = build(Experiment, configuration.load(Path(name)), "option")
    assert preset.name == name and preset.arms() == ("base", "sso", "pbaa", "dpo", "ipo", "self-rewarding")
    sampling = (preset.temperature, preset.top_p, preset.max_new_tokens)
    assert sampling == (0.7, 0.8, 2048)  # section 4, step 2
    options = preset.method_options("sso")
    assert (options.learning_rate, options.beta, options.gamma) == (5e-7, 0.1, 0.1)  # section 4, steps 3 and 4
    assert preset.model in presets.numbers(presets.SHAPES)
    assert all(each.size for each in benchmarks_of(preset).values())


def test_the_small_preset_is_a_whole_experiment():
    preset = build(Experiment, configuration.load(Path("smollm2-135m")), "option")
    assert preset.name == "smollm2-135m" and preset.arms() == ("base", "sso", "dpo")
    assert preset.model in PACKAGED


def test_mappings_are_joined_and_all_else_is_replaced(tmp_path):
    options = "options: {dpo: {beta: 0.1, loss: x}, ipo: {beta: 1}}\n"
    (tmp_path / "a.yaml").write_text(f"methods: [dpo, ipo]\nseeds: 2\n{options}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("extends: ../a.yaml\nmethods: [dpo]\noptions: {dpo: {beta: 0.3}}\n")
    (tmp_path / "c.yaml").write_text("extends: sub/b.yaml\nseeds: 5\n")
    assert configuration.load(tmp_path / "c.yaml") == {
        "methods": ["dpo"],
        "seeds": 5,
        "options": {"dpo": {"beta": 0.3, "loss": "x"}, "ipo": {"beta": 1}},
    }


def test_a_file_may_extend_a_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: qwen2-7b-instruct\nseeds: 1\n")
    found = configuration.load(tmp_path / "mine.yaml")
    assert (found["model"], found["seeds"], found["top_p"]) == ("Qwen/Qwen2-7B-Instruct", 1, 0.8)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: me.yaml", "me.yaml: extends me.yaml, which extends this file"),
        ("extends: other.yaml", "other.yaml: extends me.yaml, which extends this file"),
        ("extends: none.yaml", "no configuration file at .*none.yaml"),
        ("extends: lama3-8b-sft", "preset 'lama3-8b-sft'.*llama3-8b-sft"),
        ("extends: [paper]", "extends must be the name of a preset or of a file, not"),
        ("extends: /dev/null", "no configuration file at /dev/null"),
    ],
)
def test_what_can_not_be_extended(tmp_path, text, told):
    (tmp_path / "me.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("extends: me.yaml")
    with pytest.raises(UserError, match=told):
        configuration.load(tmp_path / "me.yaml")


def test_options_have_their_names_on_the_command_line_too(tmp_path):
    (tmp_path / "a.yaml").write_text("method: [dpo]\njudge-concurrency: 2\nset: {dpo: {beta: 0.3}}\n")
    found = {"methods": ["dpo"], "judge_concurrency": 2, "options": {"dpo": {"beta": 0.3}}}
    assert configuration.load(tmp_path / "a.yaml") == found
    (tmp_path / "a.yaml").write_text("method: [dpo]\nmethods: [ipo]\n")
    with pytest.raises(UserError, match="'method' and 'methods' are one option: leave one out"):
        configuration.load(tmp_path / "a.yaml")


def test_settings_of_what_is_left_out_are_left_out(tmp_path, capsys):
    """Of a preset, and of a file's variants; a name that is none, and the command line's, are refused."""
    paper = Path("qwen2-7b-instruct")
    chosen = experiment({"methods": "sso,dpo", "benchmarks": "math"}, paper)
    assert set(chosen.options) == {"sso", "dpo"}
    assert "options of pbaa, ipo, self-rewarding are dropped: not chosen" in capsys.readouterr().err
    with pytest.raises(UserError, match="options for 'pbaa', which is not among"):
        experiment({"methods": "sso,dpo", "options": ["pbaa.beta=1"]}, paper)

    file = tmp_path / "a.yaml"
    file.write_text("method: [dpo, softer=dpo]\noptions: {softer: {beta: 0.01}, mmlu: {shots: 0}}\n")
    assert set(experiment({"methods": "dpo"}, file).options) == set()
    assert set(experiment({}, file).options) == {"softer"}
    file.write_text("options: {dpoo: {beta: 0.01}}\n")
    with pytest.raises(UserError, match="options for 'dpoo', which is not among"):
        experiment({"methods": "dpo"}, file)
