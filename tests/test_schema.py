"""The JSON schema of an experiment file, as `harness schema` prints it."""

import json
from dataclasses import fields

import pytest
import yaml

from harness import cli
from harness.errors import UserError
from harness.experiment import configuration, registry
from harness.experiment.options import Experiment
from harness.experiment.presets import FOLDER
from harness.files import plain_yaml
from harness.files.typed import build

TYPES = {"string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "object": dict}


def conforms(value, part, schema):
    """Whether a value fits a part of a JSON schema; the keywords that ours has are known, no others."""
    rest = {name: held for name, held in part.items() if name not in ("description", "default", "title", "$schema")}
    if reference := rest.pop("$ref", None):
        return conforms(value, schema["properties"][reference.removeprefix("#/properties/")], schema)
    if choices := rest.pop("anyOf", None):
        return any(conforms(value, choice, schema) for choice in choices)
    if (kind := rest.pop("type", None)) == "null":
        return value is None
    if kind == "number" and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a text
        value = float(value)
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    limits = {"minimum": float.__ge__, "maximum": float.__le__, "exclusiveMinimum": float.__gt__}
    inside = all([holds(float(value), float(rest.pop(name))) for name, holds in limits.items() if name in rest])
    inside = inside and value in rest.pop("enum", [value])
    if isinstance(value, list):
        inside = inside and len(value) >= rest.pop("minItems", 0)
        inside = inside and all(conforms(each, rest["items"], schema) for each in value)
    if isinstance(value, dict):
        inner, more = rest.pop("properties", {}), rest.pop("additionalProperties")
        for name, held in value.items():
            allowed = inner.get(name, more)
            inside = inside and (allowed is True or (allowed is not False and conforms(held, allowed, schema)))
    assert not rest.keys() - {"items"}, rest
    return inside


@pytest.fixture(scope="module")
def schema():
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(cli, "print_json", printed.append)
        patch.setattr("sys.argv", ["harness", "schema"])
        with pytest.raises(SystemExit):
            cli.main()
    return json.loads(json.dumps(printed[0]))


def test_every_option_is_described(schema):
    options = schema["properties"]
    for field in fields(Experiment):
        assert options[field.name]["description"] == field.metadata["help"]
    named = registry.names("method") + registry.names("benchmark")
    assert set(options["options"]["properties"]) == set(named)
    assert options["options"]["properties"]["dpo"]["properties"]["beta"]["type"] == "number"
    assert options["seeds"] | {"description": ""} == {
        **{"description": "", "type": "integer", "default": 1, "minimum": 1, "maximum": 1000}
    }
    assert options["temperature"]["minimum"] == 0
    assert options["engine"]["enum"] == ["auto", "transformers", "vllm"]


@pytest.mark.parametrize("name", configuration.names())
def test_presets_conform(name, schema):
    written = plain_yaml.parse((FOLDER / f"{name}.yaml").read_text(), name)
    assert conforms(written, schema, schema)
    experiment = build(Experiment, configuration.load(FOLDER / f"{name}.yaml"), "option")
    assert conforms(yaml.safe_load(yaml.safe_dump(experiment.as_dict())), schema, schema)


def test_defaults_conform(schema):
    assert conforms(Experiment().as_dict(), schema, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"seeds": 0}, {"seeds": 1001}, {"seeds": "three"}, {"seeds": True}, {"top_p": 0}, {"gpu_memory": 1.5}),
        *({"engine": "vlm"}, {"sedes": 1}, {"methods": []}, {"methods": [1]}, {"limit": 0}, {"judge_max_cost": 0.0}),
        *({"options": {"sso": 5}}, {"options": {"sso": {"betaa": 1}}}, {"thinking": False}, {"judge_set": 1}),
        *({"judge_parameters": 70}, {"tune": -1}, {"check_pairs": -1}, {"search": {"dpo": 1}}),
    ],
    ids=str,
)
def test_mistakes_do_not_conform(wrong, schema):
    assert not conforms(wrong, schema, schema)
    with pytest.raises(UserError):
        build(Experiment, wrong, "option")
