"""`harness list NAME`: every option of every method and benchmark has a meaning."""

import json

import pytest
from command_line import harness

from harness.experiment import registry

NAMES = [name for kind in registry.GROUPS for name in registry.names(kind)]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name, tmp_path):
    found = json.loads(harness("list", name, "--json", cwd=tmp_path))
    assert not [each["name"] for each in found["options"] if not each["meaning"]]
    assert found["name"] == name and found["about"]


def test_defaults_limits_and_scales_are_shown(tmp_path):
    found = json.loads(harness("list", "sso", "--json", cwd=tmp_path))
    rate = next(each for each in found["options"] if each["name"] == "learning_rate")
    assert (rate["default"], rate["tuned"]) == (1e-4, [3e-5, 5e-4])
    assert (rate["small"], rate["large"]) == (1e-6, 5e-7)
    text = harness("list", "sso", cwd=tmp_path)
    assert "--set sso.OPTION=VALUE" in text and "2410.17131" in text


def test_an_unknown_name_has_its_nearest(tmp_path):
    assert "did you mean 'sso'" in harness("list", "ssoo", cwd=tmp_path, code=2)
