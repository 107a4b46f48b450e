"""The JSON schema of an experiment file, for editors and other programs."""

from typing import Any

from harness.experiment import registry
from harness.experiment.configuration import EXTENDS, FLAGS
from harness.experiment.options import Experiment
from harness.files import typed


def schema() -> dict[str, Any]:
    """The options of an experiment, and under `options` those of each installed method and benchmark.

    A variant (NAME=METHOD) has options under its own name, which no schema can know: these are not checked.
    """
    whole = typed.schema(Experiment)
    properties = whole["properties"]
    properties["options"]["properties"] = {
        name: typed.schema(registry.load(kind, name).Options)
        for kind in registry.GROUPS
        for name in registry.names(kind)
    }
    others = {flag.replace("-", "_"): field for flag, field in FLAGS.items() if len(flag) > 1}
    properties |= {name: {"$ref": f"#/properties/{field}"} for name, field in others.items() if name not in properties}
    properties[EXTENDS] = {"type": "string", "description": "A preset, or a file, whose options these change."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "harness experiment",
        **whole,
    }
