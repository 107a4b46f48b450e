"""Defaults of methods' options by model size: what suits the embedded model ruins one of 7B parameters.

The scale "testbed" keeps the defaults of the options. The others are for AdamW without LoRA, with sources:

- small: learning rate 1e-6 and beta 0.1 are the defaults of TRL's DPOConfig; SmolLM2's DPO used 1e-6 too.
- large: learning rate 5e-7, beta 0.1 and batches of 128 are from the SSO paper (arXiv 2410.17131, section 4).

Options of a method can have a class attribute `real`: defaults of its own for both, where those of DPO do not fit.
"""

import dataclasses
from typing import Any, Literal, get_args

from harness.errors import UserError

Scale = Literal["auto", "testbed", "small", "large"]
AUTO, *SCALES = get_args(Scale)
LARGE = 2e9  # parameters of the smallest large model
_REAL = {"beta": 0.1, "principle_set": "general", "judge_prompt": "additive", "judge_max_new_tokens": 512}
OPTIONS: dict[str, dict[str, Any]] = {
    "testbed": {},
    "small": {"learning_rate": 1e-6, **_REAL},
    "large": {"learning_rate": 5e-7, "batch_size": 128, "micro_batch_size": 2, **_REAL},
}
NEW_TOKENS = {"testbed": 64, "small": 512, "large": 512}  # of a completion; the testbed's answers end within 64


def scale_of(model: str) -> Scale:
    """Return the scale of a model by its number of parameters; "large" if that is not known."""
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
    """Return the defaults of a scale for those options that a method has."""
    names = {each.name for each in dataclasses.fields(kind)}
    defaults = {name: value for name, value in OPTIONS[scale].items() if name in names}
    return defaults if scale == "testbed" else {**defaults, **getattr(kind, "real", {})}
