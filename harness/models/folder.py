"""Where a model is: in a folder, or among what was fetched from the hub; and the model that an adapter is put on."""

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
FILES = {  # of a repository: no pickle, code only to be run where that is trusted, no folders with other formats
    "allow_patterns": ("*.safetensors", "*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "*.py"),
    "ignore_patterns": ("*/*",),
}


class NoModel(UserError):
    """A model that is not on this machine."""


def model_folder(model: str, revision: str | None = None) -> Path:
    """The folder of a model that is on this machine.

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
    """Makes `model_folder` find a model of the hub, and the base of an adapter: what is not here is fetched.

    Raises:
        UserError: when it can not be had.
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
            f"no model at {model!r}: neither a folder nor a model that can be had from the hub ({reason:.300})"
        ) from None


def base_folder(folder: Path) -> Path | None:
    """The folder of the model that a PEFT adapter is put on; None for a folder that holds no adapter.

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
    """The safetensors files that transformers loads from a model's folder: one, the shards of an index, or all."""
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
    """What config.json of a model's folder holds, {} where it can not be read: loading the model says what is wrong."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def text_config(folder: Path) -> dict[str, Any]:
    """The part of config.json that is about the language model."""
    config = read_config(folder)
    return config["text_config"] if isinstance(config.get("text_config"), dict) else config


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a model is: that of an adapter's base, if the adapter has none of its own."""
    base = base_folder(folder)
    return folder if base is None or (folder / "tokenizer_config.json").exists() else base


def _adapter(folder: Path) -> tuple[str, str | None] | None:
    """Name and revision of an adapter's base model."""
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
