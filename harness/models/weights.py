"""Compares what a model's files ask for with its weights, before anything is built from them.

A config.json or tokenizer.json of a few bytes can ask for any number of layers or any amount of memory. The headers of
the safetensors files say how much there is: nothing may ask for more. No tensor is read, and torch is not imported.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.models import pattern_probe
from harness.models.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, base_folder, weight_files

JSON_BYTES = 8 << 20  # of config.json, generation_config.json, tokenizer_config.json and their like
INDEX_BYTES = 64 << 20
DEPTH = 64  # of nested lists and objects
TOKENIZER_BYTES, BYTES_PER_TOKEN = 4 << 20, 512  # large real ones have 60 to 130 bytes per token
LARGEST = 1 << 24  # number in config.json, positions aside: a vocabulary, an embedding, an expert count
LARGEST_POSITION = 1 << 31
POSITION = re.compile(r"position|context|length|len$|ctx|window|seed|params")
LAYERS = re.compile(r"^(num|n)_([a-z]+_)*(layers?|blocks)$|^(en|de)coder_layers$|(^|_)depth$")
FEW_LAYERS, MOST_LAYERS = 256, 2000  # harmless whatever the weights are; more than any model has
MOST_LABELS = 1 << 16
LONGEST_PATTERN = 4096  # characters of a regular expression in tokenizer.json
GROWTH = 64  # characters that the steps of a tokenizer may make from one
TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "added_tokens.json")
SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.json")
OTHER_FORMATS = {"*.gguf": "GGUF", "*.bin": "pickled PyTorch", "*.pth": "pickled PyTorch", "*.h5": "TensorFlow"}
PARTS = ("normalizer", "pre_tokenizer", "decoder", "post_processor")  # of tokenizer.json, made of steps


_Stamp = tuple[tuple[str, int, int], ...]


class Unusable(UserError):
    """A folder's files are not a model that can be used here."""

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(f"model {str(name)!r} cannot be loaded: {reason}")


def check_files(folder: Path, name: str | None = None) -> None:
    """Refuse a model or adapter of a kind that is not trained here, or whose files ask for more than its weights hold.

    Files that have not changed since the last call are not read again.

    Args:
        name: the model's name in messages, if not the folder.

    Raises:
        UserError: naming the file, what it asks for, and what there is.
    """
    base = base_folder(folder)
    for each in filter(None, (base, folder)):
        if reason := _fault(each, base if each == folder else None, _stamp(base), _stamp(folder)):
            raise Unusable(name or each, reason)


def _stamp(folder: Path | None) -> "_Stamp":
    """Return names, sizes in bytes and modification times in ns of a folder's files."""
    files = sorted(folder.iterdir()) if folder else ()
    return tuple((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.is_file())


@cache
def _fault(folder: Path, base: Path | None, *_stamps: "_Stamp") -> str | None:
    """Return why a folder cannot be used, None if it can.

    Args:
        base: the base model's folder, for an adapter.
        _stamps: make the cache forget a folder whose files have changed.
    """
    try:
        for file in SETTINGS:
            read_json(folder / file)
        if base:
            read_json(folder / ADAPTER_CONFIG)
            _check_tokenizer(folder, _adapter_tokens(folder, base))
        else:
            _check_model(folder)
    except ValueError as error:
        return str(error)
    return None


def _check_model(folder: Path) -> None:
    config = read_json(folder / "config.json")
    if not (folder / "config.json").is_file():
        raise ValueError("it has no config.json: give the folder that the model was saved in")
    _check_kind(config)
    shapes = tensor_shapes(folder)
    _check_numbers(config, shapes)
    _check_tokenizer(folder, _rows(config, shapes))


def read_json(file: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file, {} if there is no file.

    Raises:
        ValueError: when the file is too large, too deeply nested, or not a JSON object.
    """
    if not file.is_file():
        return {}
    if (size := file.stat().st_size) > most:
        raise ValueError(
            f"{file.name} has {size:,} bytes, and at most {most:,} are read: it does not belong to this model"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON ({' '.join(str(error).split()):.200}): fetch it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} does not hold a JSON object: fetch it again")
    if _depth(content) > DEPTH:
        raise ValueError(f"{file.name} is nested more than {DEPTH} levels deep: it does not belong to this model")
    return content


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= DEPTH:
        depth += 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights that would be loaded from a folder, read from headers alone.

    Raises:
        ValueError: when there are none, a file is missing, or a header is damaged.
    """
    from safetensors import SafetensorError, safe_open

    check_shards(folder)
    files = weight_files(folder)
    if not files:
        found = next((kind for pattern, kind in OTHER_FORMATS.items() if any(folder.glob(pattern))), None)
        held = f", only {found} files" if found else ""
        raise ValueError(
            f"it has no .safetensors file{held}: weights are read from safetensors only, so give the model in that "
            "format (transformers' save_pretrained writes it)"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ValueError(f"its index names {path.name}, which is not there: fetch the model again") from None
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    return shapes


def check_shards(folder: Path) -> None:
    """Check that the weights that an index names are safetensors beside it.

    transformers follows a path anywhere, and unpickles (without running code) files with other suffixes.

    Raises:
        ValueError: naming the file.
    """
    index = folder / INDEX
    if not index.is_file():
        return
    shards = read_json(index, INDEX_BYTES).get("weight_map")
    if not isinstance(shards, dict):
        raise ValueError(f"{index} has no weight_map")
    for shard in shards.values():
        if not (isinstance(shard, str) and shard == Path(shard).name and shard.endswith(".safetensors")):
            raise ValueError(f"{index} names {shard!r:.80}, which is not a .safetensors file of this folder")


def elements(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(map(prod, shapes.values()))


def _check_kind(config: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: for kinds of models that cannot be trained here.
    """
    kind = config.get("model_type", "of an unknown kind")
    quantized = config.get("quantization_config") or config.get("compression_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ValueError(
            f"its weights are quantized ({method or 'quantization_config in config.json'}), and training needs plain "
            "ones: give the model in bfloat16, float16 or float32"
        )
    if config.get("is_encoder_decoder") is True:
        raise ValueError(f"it is an encoder-decoder model ({kind}): give a decoder-only language model")
    named = config.get("architectures")
    named = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    if any(each.endswith("ForMaskedLM") for each in named):
        raise ValueError(f"{named[0]} is an encoder, which fills gaps: give a decoder-only language model")


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield last name, dotted name and value of each integer in a configuration, nested ones included."""
    waiting: list[tuple[str, str, Any]] = [(name, name, value) for name, value in config.items()]
    while waiting:
        name, path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(inner, f"{path}.{inner}", each) for inner, each in value.items()]
        elif isinstance(value, list):
            waiting += [(name, path, each) for each in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, path, value


def _check_numbers(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """
    Raises:
        ValueError: for a size that no tensor has, or more layers than there are tensors.
    """
    most_layers = min(MOST_LAYERS, max(FEW_LAYERS, len(shapes)))
    for name, path, value in _numbers(config):
        position = POSITION.search(name) is not None
        if LAYERS.search(name) and value > most_layers:
            raise ValueError(f"config.json asks for {path} {value:,}, and its weights are {len(shapes):,} tensors")
        if name == "num_labels" and value > MOST_LABELS:
            raise ValueError(f"config.json asks for {path} {value:,}: at most {MOST_LABELS:,} are read")
        if abs(value) > (LARGEST_POSITION if position else LARGEST):
            raise ValueError(f"config.json asks for {path} {value:,}, more than any model has")
    rows = max((size for shape in shapes.values() for size in shape), default=0)
    for part in (config, config.get("text_config")):
        vocabulary = part.get("vocab_size") if isinstance(part, dict) else None
        if isinstance(vocabulary, int) and vocabulary > rows:
            raise ValueError(
                f"config.json asks for vocab_size {vocabulary:,}, and the largest of its weights has {rows:,} rows: "
                "config and weights are of different models"
            )


def _rows(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the rows of the embedding by config.json, else the most that the weights can have."""
    for part in (config.get("text_config"), config):
        vocabulary = part.get("vocab_size") if isinstance(part, dict) else None
        if isinstance(vocabulary, int):
            return vocabulary
    return max((shape[0] for shape in shapes.values() if len(shape) == 2), default=0)


def _adapter_tokens(folder: Path, base: Path) -> int:
    """Return for how many tokens an adapter and its base have embeddings, at most."""
    rows = _rows(read_json(base / "config.json"), tensor_shapes(base))
    for name, shape in _adapter_shapes(folder).items():
        if "embed" in name or "wte" in name or "head" in name:
            rows = max(rows, *shape)
        if "trainable_tokens" in name:
            rows += shape[0]
    return rows


def _adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} is not a whole safetensors file ({error})") from None


def _check_tokenizer(folder: Path, rows: int) -> None:
    """
    Args:
        rows: number of rows of the embedding.

    Raises:
        ValueError: when a file of the tokenizer is far too large for the embedding, names tokens without a row, or has
            steps that inflate a text.
    """
    most = TOKENIZER_BYTES + BYTES_PER_TOKEN * rows
    for file in TOKENIZERS:
        size = (folder / file).stat().st_size if (folder / file).is_file() else 0
        if size > most:
            raise ValueError(f"{file} has {size:,} bytes, and {rows:,} tokens need at most {most:,}")
    content = read_json(folder / "tokenizer.json", most)
    settings = read_json(folder / "tokenizer_config.json")
    pad = _content(settings.get("pad_token"))
    ids = dict(_token_ids(content, settings, read_json(folder / "added_tokens.json", most)))
    beyond = {text: number for text, number in ids.items() if number >= rows and text != pad}
    if beyond:
        text, number = max(beyond.items(), key=lambda item: item[1])
        raise ValueError(
            f"its tokenizer has {len(ids):,} tokens up to number {number:,} ({text!r:.40}), and its embedding has "
            f"{rows:,} rows: give the tokenizer that the model was trained with, or resize the embedding to it"
        )
    for part in PARTS:
        _check_steps(part, content.get(part))
    patterns = list(dict.fromkeys(_patterns(content)))
    if not pattern_probe.safe(patterns):
        raise ValueError(
            f"a pattern in tokenizer.json does not end on short texts, or is not a pattern: {patterns[0]!r:.80}"
        )
    fixed = content.get("padding")
    length = fixed.get("strategy") if isinstance(fixed, dict) else None
    if isinstance(length, dict) and not 0 <= _whole(length.get("Fixed")) <= LARGEST:
        raise ValueError(f"tokenizer.json pads every text to {length.get('Fixed')!r:.40} tokens: remove that")


def _token_ids(content: dict[str, Any], settings: dict[str, Any], added: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield text and number of each token that a tokenizer's files name."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from ((text, number) for text, number in vocabulary.items() if isinstance(number, int))
    elif isinstance(vocabulary, list):  # Unigram: texts with scores, in the order of their numbers
        yield from ((str(each[:1]), number) for number, each in enumerate(vocabulary) if isinstance(each, list))
    more = content.get("added_tokens")
    for each in more if isinstance(more, list) else ():
        if isinstance(each, dict) and isinstance(each.get("id"), int):
            yield _content(each) or "", each["id"]
    decoder = settings.get("added_tokens_decoder")
    for number, each in decoder.items() if isinstance(decoder, dict) else ():
        if number.isdecimal() and len(number) < 20:
            yield _content(each) or "", int(number)
    yield from ((text, number) for text, number in added.items() if isinstance(number, int))


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _patterns(content: dict[str, Any]) -> Iterator[str]:
    for part in PARTS:
        for step in _steps(content.get(part)):
            if isinstance(step.get("Regex"), str):
                yield step["Regex"]


def _check_steps(part: str, value: Any) -> None:
    """
    Raises:
        ValueError: when the steps of a tokenizer can inflate a character beyond GROWTH, or a pattern is very long.
    """
    growth = 1.0
    for step in _steps(value):
        pattern = step.get("Regex")
        if isinstance(pattern, str) and len(pattern) > LONGEST_PATTERN:
            raise ValueError(
                f"tokenizer.json has a pattern of {len(pattern):,} characters in its {part}: at most "
                f"{LONGEST_PATTERN:,} are read"
            )
        replaced = step.get("content") if step.get("type") == "Replace" else None
        if isinstance(replaced, str):
            found = step.get("pattern")
            text = found.get("String") if isinstance(found, dict) else None
            growth *= max(1.0, len(replaced) / max(1, len(text)) if isinstance(text, str) else 1 + len(replaced))
        if step.get("type") == "Prepend" and isinstance(step.get("prepend"), str):
            growth += len(step["prepend"]) / 16
        if growth > GROWTH:
            raise ValueError(
                f"tokenizer.json makes more than {GROWTH} characters from one in its {part}, which no model's does"
            )


def parameter_count(folder: Path) -> int:
    """Return the number of parameters in a folder's safetensors files, by their headers; for an adapter, its base's.

    Raises:
        UserError: when there is no file, or a damaged one.
    """
    folder = base_folder(folder) or folder
    try:
        return sum(map(prod, tensor_shapes(folder).values()))
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
