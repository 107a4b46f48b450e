"""What a run will cost, before it runs: no model is loaded, only its tokenizer and the sizes of its tensors."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from harness.engines.base import Message
from harness.engines.chat import fold_system
from harness.engines.templates import bounded, checked, compiled
from harness.errors import UserError
from harness.experiment import TESTBED, Experiment
from harness.methods import Lengths, Prompt
from harness.stages import plan_stage

SAMPLE = 256  # prompts that are counted
TEMPLATE_FILE = "chat_template.jinja"
DEFAULT_COMPLETION = 256  # tokens, for models whose completions were not measured


def model_folder(model: str) -> Path:
    """The folder of a model that is on this machine.

    Raises:
        UserError: when it is not here.
    """
    if model == TESTBED:
        from harness.testbed import MODEL_DIR

        return MODEL_DIR
    folder = Path(model)
    if os.path.isdir(folder):  # False for a name that no folder can have
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(f"no model at {model!r}: neither a folder nor a hub id that was downloaded") from None


def parameter_count(folder: Path) -> int:
    """Number of parameters in a folder's safetensors files, from their headers alone.

    Raises:
        UserError: when there is none, or one that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"no .safetensors file in {folder}: weights are read from safetensors only")
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is no whole safetensors file ({error})") from None
    return total


def measure_lengths(experiment: Experiment, prompts: Sequence[Prompt]) -> Lengths:
    """Expected token counts: prompts and a typical system message as the model's own template writes them."""
    folder = model_folder(experiment.model)
    count = _token_counter(folder, experiment.model)
    sample = [list(prompt.messages) for prompt in prompts[:SAMPLE]]
    alone = sum(map(count, sample)) / len(sample)
    if experiment.model == TESTBED:
        measured = json.loads((folder / "testbed.json").read_text())["lengths"]
        return Lengths(alone, measured["system"], float(experiment.completion_tokens or measured["completion"]))
    principle = {"role": "system", "content": "word " * 40}
    system = sum(count([principle, *chat]) for chat in sample) / len(sample) - alone
    return Lengths(alone, system, float(experiment.completion_tokens or DEFAULT_COMPLETION))


def _token_counter(folder: Path, name: str) -> Callable[[Sequence[Message]], int]:
    """Counts the tokens of a conversation that waits for its reply.

    Raises:
        UserError: when the folder has no tokenizer that can be read, or no chat template that takes a conversation.
    """
    from jinja2 import TemplateError
    from tokenizers import Tokenizer

    file, settings, written = (folder / each for each in ("tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE))
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
        config = json.loads(settings.read_text(encoding="utf-8"))
        source = written.read_text(encoding="utf-8") if written.exists() else config.get("chat_template")
        tokens = {name: each for name, each in map(_special, config.items()) if each}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"the tokenizer in {folder} can not be read ({error})") from None
    if not isinstance(source, str):
        raise UserError(f"the tokenizer in {folder} has no chat template")

    def count(messages: Sequence[Message]) -> int:
        try:
            with bounded():
                template = compiled(source)
                text = checked(template.render(messages=list(messages), add_generation_prompt=True, **tokens))
        except TemplateError as error:
            if (folded := fold_system(messages)) != list(messages):
                return count(folded)
            raise UserError(f"the chat template of {name} refuses a conversation: {error}") from None
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


def _special(entry: tuple[str, Any]) -> tuple[str, str | None]:
    """The name and text of a special token in tokenizer_config.json; None for an entry of another kind."""
    name, value = entry
    text = value.get("content") if isinstance(value, dict) else value
    return name, text if name.endswith("_token") and isinstance(text, str) else None


def estimate(experiment: Experiment, prompts: Sequence[Prompt], labelled: Sequence[Prompt]) -> dict:
    """The plan of every arm: {"budget", "seeds", "methods": {NAME: {"flops", "stages": [...], ...}}}.

    Raises:
        UserError: when the budget does not pay for one update of a stage.
    """
    parameters = parameter_count(model_folder(experiment.model))
    methods = {}
    for name in experiment.arms():
        options = experiment.method_options(name)
        stages = experiment.method(name).stages(options)
        plans = []
        for stage in stages:
            lengths = measure_lengths(experiment, labelled if stage.labelled else prompts)
            plans.append(plan_stage(stage, experiment.cap, lengths, parameters))
        methods[name] = {
            "flops": sum(plan.flops for plan in plans),
            "updates": sum(plan.updates for plan in plans),
            "trained_tokens": sum(plan.trained_tokens for plan in plans),
            "stages": [asdict(plan) for plan in plans],
        }
    return {
        "budget": str(experiment.cap),
        "parameters": parameters,
        "seeds": experiment.seeds,
        "flops": experiment.seeds * sum(method["flops"] for method in methods.values()),
        "methods": methods,
    }
