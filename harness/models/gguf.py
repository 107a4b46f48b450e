"""Models in GGUF files: unpacked once into a folder of safetensors, which everything else reads."""

import re
import sys
from pathlib import Path

from harness.errors import UserError
from harness.files import store
from harness.files.disk import whole
from harness.files.extras import check_installed

SUFFIX = ".gguf"
SOURCE = "gguf.json"  # in the folder: which file it was unpacked from
ON_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[\w./-]+\.gguf)", re.ASCII)


def is_gguf(model: str) -> bool:
    """Whether a model's name is a GGUF file, or OWNER/NAME:FILE.gguf on the hub."""
    return model.lower().endswith(SUFFIX)


def unpack(model: str, into: Path) -> Path:
    """The folder of float32 weights, configuration, tokenizer and chat template that a GGUF file holds.

    Weights that the file quantizes are dequantized: they differ from those of the model that was quantized.

    Args:
        model: a file, or OWNER/NAME:FILE.gguf.
        into: where the folder is made, if it is not there yet; its name has the file's digest.

    Raises:
        UserError: when there is no such file, or transformers cannot read it.
    """
    file, digest, folder = _place(model, into)
    if not (folder / SOURCE).is_file():
        check_installed("a GGUF file", ["gguf"])
        print(f"unpacking {model} into {folder}", file=sys.stderr)
        with whole(folder) as temporary:
            _convert(file, temporary)
            store.write_json(temporary / SOURCE, {"model": model, "sha256": digest})
    return folder


def unpacked(model: str, into: Path) -> Path:
    """The folder of `unpack`, where that has been called before; nothing is written.

    Raises:
        UserError: when it is not there.
    """
    *_, folder = _place(model, into)
    if not (folder / SOURCE).is_file():
        raise UserError(f"{model} is not unpacked yet, and nothing is to be written: harness estimate unpacks it")
    return folder


def _place(model: str, into: Path) -> tuple[Path, str, Path]:
    """The file, its SHA-256, and the folder that it is unpacked into."""
    file = _file(model)
    digest = store.file_digest(file)
    return file, digest, into / f"{file.stem}-{digest[:12]}"


def _file(model: str) -> Path:
    if Path(model).is_file():
        return Path(model)
    on_hub = ON_HUB.fullmatch(model)
    if not on_hub:
        raise UserError(f"no model at {model!r}: give a GGUF file, or OWNER/NAME:FILE.gguf on the hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(on_hub["repository"], on_hub["file"]))
    except (HTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no model at {model!r}: it cannot be fetched from the hub ({reason:.300})") from None


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # gguf and transformers raise whatever their parsing meets
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}: transformers cannot read this GGUF file ({type(error).__name__}: {reason:.300})"
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain now
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
