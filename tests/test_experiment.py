"""Options of an experiment: one place, checked, the same for YAML, command line and Python."""

import pytest
import yaml

from harness.errors import UserError
from harness.experiment import Experiment, build, load, parse_options


def test_defaults_are_valid_and_survive_yaml():
    experiment = Experiment()
    again = build(Experiment, yaml.safe_load(yaml.safe_dump(experiment.as_dict())), "option")
    assert again == experiment
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
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"budget": "lots"}, "budget 'lots' is not understood"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"top_p": 0.0}, "top_p within"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"name": "../elsewhere"}, "not allowed"),
        ({"options": {"dpo": {"beta": 0.1}}}, "options for 'dpo', which is not among"),
        ({"options": {"sso": {"betaa": 0.1}}}, "unknown option of sso 'betaa': did you mean 'beta'"),
        ({"options": {"sso": {"beta": "high"}}}, "option of sso 'beta' must be float"),
        ({"options": {"sso": {"generator_share": 1.0}}}, "generator_share must lie between 0 and 1"),
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


def test_files_that_can_not_be_used(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        load(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("seeds: 3\nmethods: [sso\n")
    with pytest.raises(UserError, match=r"broken\.yaml:3: not YAML"):
        load(broken)
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
