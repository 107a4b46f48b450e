"""Defaults of methods' options by the size of the model: what suits the embedded model ruins one of 7B parameters.

Those of "testbed" are the options' own. The others are of AdamW without LoRA, with sources:

- small: learning rate 1e-6 and beta 0.1 are the defaults of TRL's DPOConfig; SmolLM2's models had 1e-6 in DPO too.
- large: learning rate 5e-7, beta 0.1 and batches of 128 are the SSO paper's (arXiv 2410.17131, section 4).
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    pass

AUTO, SCALES = "auto", ("testbed", "small", "large")
LARGE = 2e9  # parameters from which a model is large
_REAL = {"beta": 0.1, "principle_set": "general", "judge_prompt": "additive", "judge_max_new_tokens": 512}
OPTIONS: dict[str, dict[str, Any]] = {
    "testbed": {},
    "small": {"learning_rate": 1e-6, **_REAL},
    "large": {"learning_rate": 5e-7, "batch_size": 128, "micro_batch_size": 2, **_REAL},
}


def scale_of(model: str) -> str:
    """Which of SCALES a model has, by its parameters; large where neither its weights nor its size are known here."""
    from harness.experiment import presets
    from harness.models.folder import TESTBED, model_folder
    from harness.models.weights import parameter_count

    if model == TESTBED:
        return "testbed"
    try:
        parameters = parameter_count(model_folder(model))
    except UserError:
        parameters = presets.numbers(presets.SHAPES).get(model, {}).get("parameters", LARGE)
    return "small" if parameters < LARGE else "large"


def options_of(scale: str, kind: type) -> dict[str, Any]:
    """The defaults of a scale that a method's options have."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in OPTIONS[scale].items() if name in names}
