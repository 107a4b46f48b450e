"""Options of an experiment: one place, checked, the same for YAML, command line and Python."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from annotated_types import Ge

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.experiment.settings import add_settings, parse_options
from harness.files.typed import build, load


def test_defaults_are_valid_and_survive_yaml():
    experiment = Experiment()
    again = build(Experiment, yaml.safe_load(yaml.safe_dump(experiment.as_dict())), "option")
    assert again == replace(experiment, max_new_tokens=64)
    assert experiment.arms() == ("base", "sso")


def test_base_comes_first_and_once():
    assert Experiment(methods=("dpo", "base", "sso")).arms() == ("base", "dpo", "sso")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": "ssoo"}, "unknown method 'ssoo': did you mean 'sso'"),
        ({"benchmarks": "mtbench"}, "unknown benchmark 'mtbench': did you mean 'mt-bench'"),
        ({"sedes": 3}, "unknown option 'sedes': did you mean 'seeds'"),
        ({"seeds": "three"}, "option 'seeds' must be int, not 'three'"),
        ({"seeds": True}, "option 'seeds' must be int"),
        ({"seeds": 1001}, "option 'seeds' must be at most 1000, not 1001"),
        ({"gpu_memory": 1.5}, "option 'gpu_memory' must be at most 1, not 1.5"),
        ({"limit": 1.5}, "option 'limit' must be int or null, not 1.5"),
        ({"engine": "vlm"}, "unknown engine 'vlm': did you mean 'vllm'"),
        ({"thinking": False}, "option 'thinking' must be str or null, not False"),
        ({"tune": 1}, "tune must be 0 or at least 2"),
        ({"seeds": 0}, "option 'seeds' must be at least 1, not 0"),
        ({"budget": "lots"}, "budget 'lots' is not understood"),
        ({"limit": 0}, "option 'limit' must be at least 1, not 0"),
        ({"top_p": 0.0}, "option 'top_p' must be above 0, not 0.0"),
        ({"temperature": -1}, "option 'temperature' must be at least 0, not -1"),
        ({"name": "../elsewhere"}, "not allowed"),
        ({"options": {"dpo": {"beta": 0.1}}}, "options for 'dpo', which is not among"),
        ({"options": {"sso": {"betaa": 0.1}}}, "unknown option of sso 'betaa': did you mean 'beta'"),
        ({"options": {"sso": {"beta": "high"}}}, "option of sso 'beta' must be float"),
        ({"options": {"sso": {"generator_share": 1.0}}}, "generator_share must be between 0 and 1"),
        ({"methods": [1]}, "'methods' must be a list of texts, at least one, not \\[1\\]"),
        ({"methods": []}, "'methods' must be a list of texts"),
        ({"methods": ","}, "'methods' must be a list of texts"),
        ({"methods": ["sso", "a\ud800=sso"]}, "'methods' holds half a character or a NUL"),
        ({"prompts": "x" * 300}, "'prompts' is longer than the 200 bytes of a name: 'xxx"),
        ({"options": {"sso": {"principle_set": "é" * 101}}}, "'principle_set' is longer than the 200 bytes"),
        ({"prompts": "a\0b"}, "'prompts' holds half a character or a NUL"),
        ({"temperature": float("nan")}, "'temperature' must be float"),
        ({"judge_max_cost": float("inf")}, "'judge_max_cost' must be float"),
        ({"temperature": 10**400}, "'temperature' must be float"),
        ({"temperature": "1e400"}, "'temperature' must be float"),
        ({"temperature": True}, "'temperature' must be float, not True"),
        ({"seeds": 1.5}, "'seeds' must be int"),
        ({"options": {"sso": 5}}, "'options' must be mappings of options by the name"),
        ({"options": {"sso": None}}, "'options' must be mappings of options by the name"),
        ({"options": {"sso": {"learning_rate": "nan"}}}, "option of sso 'learning_rate' must be float"),
        ({"options": {"sso": {"learning_rate": -1e-4}}}, "learning_rate, weight_decay, max_grad_norm and router"),
        ({"options": {"sso": {"batch_size": 0}}}, "batch_size and micro_batch_size must be at least 1"),
        ({"options": {"sso": {"warmup_ratio": 1}}}, "warmup_ratio must be at least 0 and below 1"),
        ({"options": {"sso": {"lora_rank": -1}}}, "lora_rank must be at least 0"),
        ({"methods": "dpo", "options": {"dpo": {"batch_size": -1}}}, "batch_size and micro_batch_size"),
        ({"methods": "self-rewarding", "options": {"self-rewarding": {"adam_beta1": 1}}}, "adam_beta1 must be"),
        ({"budget": "nan"}, "budget 'nan' is not understood"),
        ({"budget": "prompts=-3"}, "budget 'prompts=-3' is not understood"),
        ({"budget": "1e400"}, "budget '1e400' is not understood"),
        ({"budget": "updates=1e308"}, "budget 'updates=1e308' is more than any run could spend"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        build(Experiment, values, "option")


def test_numbers_as_people_write_them():
    experiment = build(Experiment, {"temperature": 1, "options": {"sso": {"learning_rate": "1e-4"}}}, "option")
    assert experiment.temperature == 1.0
    assert experiment.method_options("sso").learning_rate == 1e-4


def test_settings_of_the_command_line():
    assert parse_options(["dpo.beta=0.2", "dpo.data=on-policy", "sso.use_negative=false"]) == {
        "dpo": {"beta": 0.2, "data": "on-policy"},
        "sso": {"use_negative": False},
    }
    for wrong in ("dpo.beta", "beta=1", "dpo.=1"):
        with pytest.raises(UserError, match="NAME.OPTION=VALUE"):
            parse_options([wrong])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1", r"setting 'sso.beta=\[1':1: not YAML"),
        ("!!python/object:os.system x", "tag .* is not read"),
        ("\0", r"character '\\x00' is not allowed"),
        ("{1: 2}", "a key that is not a text"),
        ("0x" + "f" * 10_000, "is not a number that can be read"),
    ],
)
def test_settings_with_broken_values(value, message):
    with pytest.raises(UserError, match=message):
        parse_options([f"sso.beta={value}"])


def test_settings_come_on_top_of_a_configuration():
    assert add_settings({"sso": {"beta": 0.1, "gamma": 0.2}}, ["sso.beta=0.3", "dpo.beta=1"]) == {
        "sso": {"beta": 0.3, "gamma": 0.2},
        "dpo": {"beta": 1},
    }
    for wrong in ([1], {"sso": 5}, {"sso": None}):
        with pytest.raises(UserError, match="'options' must be mappings"):
            add_settings(wrong, ["sso.beta=0.3"])


def billion_laughs() -> str:
    """a stands for 4 values, b for 37, c for 334, d for 3,007 and e for 27,064."""
    names = "abcdefghi"
    lines = [f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in itertools.pairwise(names)]
    return "\n".join(["a: &a [x, x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (billion_laughs(), r":5: not YAML \(more than 20000 values\)"),
        ("a: &a [*a]", ":1: not YAML .an alias stands for what it is part of"),
        ("name: x\nseeds: !!python/object/apply:os.system [ls]", ":2: not YAML .tag .* is not read"),
        ("seeds: 1\nname: x\nseeds: 2", ":3: not YAML .'seeds' is given twice"),
        ("options:\n  sso: {beta: 1, beta: 2}", ":2: not YAML .'beta' is given twice"),
        ("seeds: 1\nno: 2", ":2: not YAML .a key that is not a text"),
        ("seeds: 1\n1: 2", ":2: not YAML .a key that is not a text"),
        ("name: a\nmodel: \0", r":2: not YAML .character '\\x00' is not allowed"),
        ("seeds: " + "9" * 5000, ":1: not YAML .* is not a number that can be read"),
        ("name: " + "[" * 5000, ":1: not YAML .nested deeper than 20 levels"),
        ("#" * (1 << 19), "is longer than 262144 characters"),
        ("0", "must hold a mapping"),
    ],
    ids=lambda value: value[:20],
)
def test_what_a_configuration_can_not_hold(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert len(str(error.value)) < len(str(path)) + 200


def test_what_a_configuration_can_hold(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfname: 2024-02-31\r\nbudget: 1e12\r\nmodel: 12:30:45\r\nmethods: [sso, more=sso]\r\n"
        b"options:\r\n  sso: &a {beta: 0.3}\r\n  more: {<<: *a, beta: 0.4, gamma: 1e-2}\r\n"
    )
    experiment = build(Experiment, load(path), "option")
    assert (experiment.name, experiment.budget, experiment.model) == ("2024-02-31", "1e12", "12:30:45")
    assert [experiment.method_options(arm).beta for arm in ("sso", "more")] == [0.3, 0.4]
    assert experiment.method_options("more").gamma == 0.01


def test_files_that_can_not_be_used(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        load(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("seeds: 3\nmethods: [sso\n")
    with pytest.raises(UserError, match=r"broken\.yaml:3: not YAML"):
        load(broken)
    broken.write_bytes(b"seeds: 3\nname: \xff\n")
    with pytest.raises(UserError, match=r"broken\.yaml:2: cannot be read \(byte 0xff is not UTF-8\)"):
        load(broken)
    with pytest.raises(UserError, match="no configuration file at xxx"):
        load(Path("x" * 300))
    with pytest.raises(UserError, match="it is not a regular file"):
        load(tmp_path)
    broken.write_text("- sso\n")
    with pytest.raises(UserError, match="must hold a mapping"):
        load(broken)


def test_a_variant_has_a_name_and_options_of_its_own():
    experiment = Experiment(methods=("sso", "sso-plus=sso"), options={"sso-plus": {"use_negative": False}})
    assert experiment.arms() == ("base", "sso", "sso-plus")
    assert experiment.method("sso-plus").name == "sso"
    assert experiment.method_options("sso").use_negative
    assert not experiment.method_options("sso-plus").use_negative


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (("plus=sos",), "did you mean 'sso'"),
        (("../plus=sso",), "is not allowed"),
        (("sso", "sso=dpo"), "sso is given twice, as sso and as dpo"),
        (("base=sso",), "base is given twice"),
    ],
)
def test_variants_that_can_not_be(methods, message):
    with pytest.raises(UserError, match=message):
        Experiment(methods=methods)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ledger": "exact"}, "ledger 'exact'.*needed"),
        ({"judge_parameters": 70e9}, "judge_parameters describes a judge at an endpoint"),
        ({"judge_parameters": 70.0, "judge_model": "m"}, "'judge_parameters' must be at least 1e6, not 70"),
    ],
)
def test_rules_and_sizes_of_judges_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        Experiment(**options)


@dataclass(frozen=True)
class PluginOptions:
    """Plain, limited and chosen options, as a plugin may declare them."""

    required: str
    names: tuple[str, ...] = ("a",)
    number: Annotated[int, Ge(1)] | None = None
    share: float = 0.5
    kind: Literal["mean", "sum"] = "mean"


def test_options_of_a_plugin():
    read = build(
        PluginOptions, {"required": "x", "names": "a, b", "number": 2, "share": "1e-4", "kind": "sum"}, "option"
    )
    assert read == PluginOptions("x", ("a", "b"), 2, 1e-4, "sum")
    assert build(PluginOptions, {"required": "x", "names": ["a"], "share": 1}, "option") == PluginOptions(
        "x", share=1.0
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "option 'required' is missing"),
        ({"required": "x", "number": 0}, "option 'number' must be at least 1, not 0"),
        ({"required": "x", "kind": "men"}, "unknown kind 'men': did you mean 'mean'"),
        ({"required": "x", "kind": 3}, "option 'kind' must be str, not 3"),
        ({"required": None}, "option 'required' must be str, not None"),
        ({"required": "x", "share": [1]}, r"option 'share' must be float, not \[1\]"),
    ],
)
def test_mistakes_in_options_of_a_plugin(values, message):
    with pytest.raises(UserError, match=message):
        build(PluginOptions, values, "option")
