"""Short digests of what a result depends on: models, packages, device, environment, files.

Nothing is loaded: a model is known by its files. Digests of code are in `harness.files.sources`.
"""

import os
import platform
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.files.store import digest, file_digest
from harness.models import processor
from harness.models.folder import base_folder

MODEL_FILES = {  # the parts of a model that people change separately
    "weights": ("*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    "config": ("config.json", "generation_config.json"),
    "tokenizer": (
        *("tokenizer.json", "*.model", "tokenizer_config.json", "special_tokens_map.json", "tekken.json"),
        *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    ),
    "template": ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    "code": ("*.py",),  # run with --trust-remote-code
}
HUB_NAME = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:/[\w.-]+)?(?::.+)?", re.ASCII)
NUMERIC_VARIABLES = (  # of libraries that compute, by the start of their names
    *("ACCELERATE_", "ATEN_", "CUBLAS", "CUDNN_", "DNNL_", "FLASH_ATTENTION_", "FSDP_", "KMP_", "MKL_", "NCCL_ALGO"),
    *("NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH", "TRITON_"),
)
HARMLESS_VARIABLES = re.compile(  # of the same libraries: places, what is printed, memory, threads (counted apart)
    r"_(HOME|CACHE|DIR|PATH|ROOT|LOGS?|LEVEL|VERBOSE|VERBOSITY|WARNINGS?|NUM_THREADS|ALLOC_CONF|TIMEOUT(_SEC)?)$"
    r"|_(CACHE|LOG|TRACE)_|_VERSION$|^KMP_(DUPLICATE_LIB_OK|INIT_AT_FORK)$"  # the last are set by scikit-learn
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")
CUDA_DRIVER = Path("/proc/driver/nvidia")  # no GPU without it: then there is no need to import torch to know


def of_model(folder: Path) -> dict[str, str]:
    """Return digests of a model folder's weights, config, tokenizer and chat template, and of an adapter's base."""
    found = {}
    for part, patterns in MODEL_FILES.items():
        files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        if files:
            found[part] = digest({file.relative_to(folder).as_posix(): file_digest(file) for file in files})
    if base := base_folder(folder):
        found["base"] = digest(of_model(base))
    return found


def of_path(path: Path) -> str | None:
    """Return the digest of a file, or of all files in a folder with their names; None if there is neither."""
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return digest({str(each.relative_to(path)): file_digest(each) for each in files})
    return None


def of_named(values: Iterable[Any]) -> dict[str, str]:
    """Return name -> digest for those values that name a file or folder, or a model or data set of the hub."""
    names = (value for value in values if isinstance(value, str))
    return {name: found for name in names if name and (found := of_path(Path(name)) or of_hub(name))}


def of_hub(name: str) -> str | None:
    """Return the commit of a model or data set of the hub that this machine uses, None if it was not fetched.

    Args:
        name: OWNER/NAME, optionally with /CONFIG and :SPLIT.
    """
    if not (match := HUB_NAME.fullmatch(name)):
        return None
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folders = (cache / f"{kind}--{match['owner']}--{match['name']}" for kind in ("models", "datasets"))
    commits = [file.read_text().strip() for folder in folders if (file := folder / "refs" / "main").is_file()]
    return " ".join(commits) or None


def of_environment() -> dict[str, str]:
    """Return the environment variables that can change numbers, if only in their last digits, or how training runs."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(NUMERIC_VARIABLES) and not HARMLESS_VARIABLES.search(name)
    }


def threads() -> int:
    """Return the number of CPU threads of arithmetic, which the last digits of sums depend on."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if (given := os.environ.get(name, "").partition(",")[0]).isdecimal() and int(given) > 0:
            return int(given)
    return min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1)


@cache
def of_packages(*names: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def of_device(device: str) -> str:
    """Return the device that "auto", "cpu" or "cuda" means here; digits of results depend on it."""
    if device == "cpu" or not CUDA_DRIVER.exists():
        return _cpu()
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()


def machine(device: str) -> dict[str, Any]:
    """Describe the machine for people: processor, cores and memory, and the GPU if `device` is one."""
    found = of_device(device)
    return {
        "processor": processor.fields().get("model name") or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **({} if found.startswith("cpu ") else {"gpu": found}),
    }


@cache
def _cpu() -> str:
    """Return kind, maker and instruction sets of the CPU: libraries choose kernels by them, which differ in last
    digits."""
    fields = processor.fields()
    flags = fields.get("flags", fields.get("Features", "")).split()
    named = ["cpu", platform.machine(), fields.get("vendor_id"), *(name for name in INSTRUCTIONS if name in flags)]
    return " ".join(filter(None, named))
