"""What a result depends on, as short digests that can be computed again: models, code, packages, device, files.

Nothing is loaded for them: a model is known by its files.
"""

import hashlib
import importlib.util
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.models import base_folder
from harness.store import digest, file_digest

MODEL_FILES = {  # what of a model is one thing that people change
    "weights": ("*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    "config": ("config.json", "generation_config.json"),
    "tokenizer": (
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "merges.txt"),
    ),
    "template": ("chat_template.jinja", "chat_template.json"),
}
CUDA_DRIVER = Path("/proc/driver/nvidia")  # no GPU without it: then there is no need to import torch to know


def of_model(folder: Path) -> dict[str, str]:
    """Digests of weights, config, tokenizer and chat template of a model's folder, and of the base of an adapter."""
    found = {}
    for part, patterns in MODEL_FILES.items():
        files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        if files:
            found[part] = digest({file.name: file_digest(file) for file in files})
    if base := base_folder(folder):
        found["base"] = digest(of_model(base))
    return found


def of_path(path: Path) -> str | None:
    """Of a file's content, or of all files in a folder with their names; None where there is neither."""
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return digest({str(each.relative_to(path)): file_digest(each) for each in files})
    return None


def of_named(values: Iterable[Any]) -> dict[str, str]:
    """`of_path` of the files and folders that are named among the values."""
    names = (value for value in values if isinstance(value, str))
    return {name: found for name in names if name and (found := of_path(Path(name)))}


@cache
def of_code(*modules: str) -> str:
    """Of the source of modules, and of all modules in packages."""
    total = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        folders = spec.submodule_search_locations
        files = sorted(Path(folders[0]).rglob("*.py")) if folders else [Path(spec.origin)]
        for file in files:
            total.update(f"{name} {file.name}\n".encode() + file.read_bytes())
    return total.hexdigest()[:16]


@cache
def of_packages(*names: str) -> dict[str, str]:
    """Versions of those that are installed, and of Python."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def of_device(device: str) -> str:
    """The device that "auto", "cpu" or "cuda" stands for here: results are the same in every digit on one only."""
    if device == "cpu" or not CUDA_DRIVER.exists():
        return f"cpu {platform.machine()}"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}"
