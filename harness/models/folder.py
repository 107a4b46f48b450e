"""Finds a model's folder, on disk or in the hub's cache, and the base model of an adapter."""

import json
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import UserError

TESTBED = "testbed"
MODEL_DIR = Path(str(files("harness") / "testbed" / "model"))
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
FILES = {  # to fetch: no pickle, code (which runs only where it is trusted), no folders with other formats
    "allow_patterns": ("*.safetensors", "*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "*.py"),
    "ignore_patterns": ("*/*",),
}


class NoModel(UserError):
    """The model is not on this machine."""


def model_folder(model: str, revision: str | None = None) -> Path:
    """Return the folder of a model on this machine.

    Raises:
        UserError: when it is not here.
    """
    if model == TESTBED:
        return MODEL_DIR
    folder = Path(model)
    if os.path.isdir(folder):  # False for a name that no folder can have
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True, **FILES))
    except (LocalEntryNotFoundError, HFValidationError):
        raise NoModel(f"no model at {model!r}: neither a folder nor a hub id that was downloaded") from None


def fetch(model: str) -> None:
    """Fetch a model from the hub, and the base of an adapter, unless they are on this machine.

    Raises:
        UserError: when it cannot be fetched.
    """
    named = _fetch(model, None)
    if adapter := _adapter(named):
        _fetch(*adapter)


def _fetch(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return model_folder(model, revision)
    except UserError:
        if os.environ.get("HF_HUB_OFFLINE"):
            raise
    print(f"fetching {model} from the hub", file=sys.stderr)
    try:
        return Path(snapshot_download(model, revision=revision, **FILES))
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no model at {model!r}: neither a folder nor a model that the hub has ({reason:.300})"
        ) from None


def base_folder(folder: Path) -> Path | None:
    """Return the folder of the base model of a PEFT adapter, None for a folder without an adapter.

    Raises:
        UserError: when the adapter has no safetensors, or its base model is not on this machine.
    """
    if not (adapter := _adapter(folder)):
        return None
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}: weights are read from safetensors only")
    try:
        base = model_folder(*adapter)
    except UserError as error:
        raise UserError(f"{folder} is an adapter for a model that is not here: {error}") from None
    if (base / ADAPTER_CONFIG).exists():
        raise UserError(f"{folder} is an adapter on another adapter, {base}: merge that one first")
    return base


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads from a folder: one, the shards of an index, or all."""
    if (single := folder / "model.safetensors").is_file():
        return [single]
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = {str(shard) for shard in index["weight_map"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        shards = set()
    if not shards or any(shard != Path(shard).name for shard in shards):  # loading them is refused
        return sorted(folder.glob("*.safetensors"))
    return [folder / shard for shard in sorted(shards)]


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of config.json, {} if it cannot be read: loading the model says what is wrong."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def text_config(folder: Path) -> dict[str, Any]:
    """Return the part of config.json that describes the language model."""
    config = read_config(folder)
    return config["text_config"] if isinstance(config.get("text_config"), dict) else config


def is_classifier(folder: Path) -> bool:
    """Whether a model folder holds a sequence classifier, by the architecture in its config.json."""
    architectures = read_config(folder).get("architectures")
    return any(str(name).endswith("ForSequenceClassification") for name in architectures or ())


def tokenizer_folder(folder: Path) -> Path:
    """Return the folder of a model's tokenizer: that of the base, if an adapter has none of its own."""
    base = base_folder(folder)
    return folder if base is None or (folder / "tokenizer_config.json").exists() else base


def _adapter(folder: Path) -> tuple[str, str | None] | None:
    """Return name and revision of an adapter's base model."""
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        base, revision = config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        base = revision = None
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise UserError(f"{file} names no base model (base_model_name_or_path)")
    return base, revision
