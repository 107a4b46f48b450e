"""What a run will cost, before it runs: no model is loaded, only its tokenizer and the sizes of its tensors."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

from harness.errors import UserError
from harness.experiment import TESTBED, Experiment
from harness.methods import Lengths, Prompt
from harness.stages import plan_stage

SAMPLE = 256  # prompts that are counted
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
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(f"no model at {model!r}: neither a folder nor a hub id that was downloaded") from None


def parameter_count(folder: Path) -> int:
    """Number of parameters in a folder's safetensors files, from their headers alone."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"no .safetensors file in {folder}: weights are read from safetensors only")
    total = 0
    for path in files:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def measure_lengths(experiment: Experiment, prompts: Sequence[Prompt]) -> Lengths:
    """Expected token counts: prompts and a typical system message as the model's own template writes them."""
    folder = model_folder(experiment.model)
    count = _token_counter(folder)
    sample = [list(prompt.messages) for prompt in prompts[:SAMPLE]]
    alone = sum(map(count, sample)) / len(sample)
    if experiment.model == TESTBED:
        measured = json.loads((folder / "testbed.json").read_text())["lengths"]
        return Lengths(alone, measured["system"], float(experiment.completion_tokens or measured["completion"]))
    principle = {"role": "system", "content": "word " * 40}
    system = sum(count([principle, *chat]) for chat in sample) / len(sample) - alone
    return Lengths(alone, system, float(experiment.completion_tokens or DEFAULT_COMPLETION))


def _token_counter(folder: Path):
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    written = folder / "chat_template.jinja"
    template = written.read_text() if written.exists() else config.get("chat_template")
    if not template:
        raise UserError(f"the tokenizer in {folder} has no chat template")
    render = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    tokens = {name: value for name, value in config.items() if name.endswith("_token") and isinstance(value, str)}

    def count(messages: list[dict]) -> int:
        text = render(messages=messages, add_generation_prompt=True, **tokens)
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


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
