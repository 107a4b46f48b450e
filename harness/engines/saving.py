"""Saving models: what could not be saved again is repaired when a model is loaded, or refused before it is trained.

transformers reads configurations that it then refuses to write, which would show only after training.
"""

import tempfile
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from harness.engines.loading import tell
from harness.engines.quantization import quantization_of
from harness.errors import UserError

SHARD = "50GB"  # largest file of weights
SAMPLING: dict[str, tuple[Any, ...]] = {  # values that matter when a model samples, and what means "not given"
    **dict.fromkeys(("min_p", "top_h"), (None,)),
    **dict.fromkeys(("temperature", "top_p", "typical_p"), (None, 1.0)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), (None, 0.0)),
    "top_k": (None, 50),
}
BEAMS: dict[str, tuple[Any, ...]] = {  # values that matter with several beams
    "early_stopping": (None, False),
    "length_penalty": (None, 1.0),
}


def check_whole(model: PreTrainedModel, name: str) -> None:
    """Check that a model can be trained as it is.

    Raises:
        UserError: for a model with unmerged adapters, in a wrapper, or with quantized weights.
    """
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise UserError(
            f"{name} is a {type(model).__name__} with adapters that are not merged: give model.merge_and_unload(), "
            "or the base model and peft_config"
        )
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"{name} is a {type(model).__name__}: give the model of transformers that is inside it")
    if quantized := quantization_of(model):
        raise UserError(
            f"{name} has quantized weights ({quantized}), and training needs plain ones: load it without quantization"
        )


def repair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Change a model's settings to what can be saved and used, and report the changes.

    Ids outside the embedding are removed. Sampling values without do_sample mean a model that samples (Llama 2 and
    Vicuna were published so): do_sample is set. With do_sample false they have no effect and are removed, like values
    of beam search with one beam.

    Raises:
        UserError: when the tokenizer has tokens without a row in the embedding, other than a padding token.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    _check_tokens(tokenizer, rows, name)
    generation = model.generation_config if model.can_generate() else None
    if generation is None:
        return
    changed = [*_keep_ids_inside(generation, rows), *_settle(generation)]
    moved = _move(model.config, generation)
    if changed or moved:
        tell(f"note: {name}: generation_config: {', '.join([*changed, *moved])}, as it could not be saved otherwise")


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the highest token id plus 1."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _check_tokens(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    pad = tokenizer.pad_token_id
    beyond = {number: text for text, number in tokenizer.get_vocab().items() if number >= rows}
    if pad is not None and pad >= rows and set(beyond) == {pad}:
        tell(
            f"note: {name}: its padding token {tokenizer.pad_token!r} is number {pad}, outside the {rows} rows of its "
            "embedding: another token is used for padding"
        )
        tokenizer.pad_token = None
    elif beyond:
        raise UserError(
            f"the tokenizer of {name} has {tokens_of(tokenizer):,} tokens ({beyond[max(beyond)]!r:.40} is the last) "
            f"and the embedding {rows:,} rows: give the tokenizer that the model was trained with, or resize the "
            "embedding to it"
        )


def _keep_ids_inside(generation: GenerationConfig, rows: int) -> list[str]:
    """Remove ids outside the embedding; return the changes."""
    changed = []
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(generation, name)
        given = value if isinstance(value, list) else [] if value is None else [value]
        inside = [token for token in given if isinstance(token, int) and 0 <= token < rows]
        if len(inside) < len(given):
            setattr(generation, name, inside if isinstance(value, list) and inside else None)
            changed.append(f"{name} {value} is not among {rows} tokens and removed")
    return changed


def _settle(generation: GenerationConfig) -> list[str]:
    """Resolve contradictory sampling and beam values; return the changes."""
    changed = []
    sampling = _given(generation, SAMPLING)
    if sampling and generation.do_sample is None:
        generation.do_sample = True
        changed.append(f"do_sample is true ({', '.join(sampling)} given)")
    elif sampling and generation.do_sample is False:
        changed.append(f"{', '.join(sampling)} removed (do_sample is false)")
        _clear(generation, sampling)
    beams = _given(generation, BEAMS) if generation.num_beams in (None, 1) else []
    if beams:
        changed.append(f"{', '.join(beams)} removed (there is one beam)")
        _clear(generation, beams)
    return changed


def _given(generation: GenerationConfig, values: dict[str, tuple[Any, ...]]) -> list[str]:
    return [name for name, absent in values.items() if getattr(generation, name, None) not in absent]


def _clear(generation: GenerationConfig, names: list[str]) -> None:
    for name in names:
        setattr(generation, name, None)


def _move(config: PreTrainedConfig, generation: GenerationConfig) -> list[str]:
    """Move what belongs in generation_config out of config.json, where old files have it; return the changes."""
    changed = []
    for name, value in config._get_generation_parameters().items():
        if getattr(generation, name, None) is None:
            setattr(generation, name, value)
        setattr(config, name, None)
        changed.append(f"{name} is taken from config.json")
    return [*changed, *(_settle(generation) if changed else ())]


def check_saveable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Save everything except the values of the weights in a temporary folder, and read it again.

    Raises:
        UserError: when that fails, with the reason: a trained model could not be saved.
    """
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        try:
            model.config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
            remove_tied_weights_from_state_dict(model.state_dict(), model)
            tokenizer.save_pretrained(folder)
            if not model.is_remote_code():
                AutoConfig.from_pretrained(folder)
                again = AutoTokenizer.from_pretrained(folder)
                if again.get_vocab() != tokenizer.get_vocab():
                    raise ValueError("its tokenizer changes when it is saved and read again")
        except Exception as error:  # whatever libraries raise for foreign settings
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{name} cannot be trained, because the result could not be saved ({reason:.400}): correct its "
                "config.json, generation_config.json or tokenizer"
            ) from error


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write weights (safetensors), configurations and tokenizer of a checked model."""
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)


def save_adapters(adapted: Any, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write the adapters of a PeftModel (safetensors) with the name of its base, and the tokenizer.

    peft would also write a card, or change the one in the folder.
    """
    card = Path(folder) / "README.md"
    kept = card.read_bytes() if card.exists() else None
    adapted.save_pretrained(folder, save_embedding_layers=False)
    if kept is None:
        card.unlink(missing_ok=True)
    else:
        card.write_bytes(kept)
    tokenizer.save_pretrained(folder)
