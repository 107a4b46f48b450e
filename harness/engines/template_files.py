"""The chat template of a model folder, read without transformers, which takes seconds to import."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from harness.engines.conversations import ChatWriter
from harness.engines.templates import ChatProgram
from harness.errors import UserError
from harness.models.folder import tokenizer_folder

TEMPLATE_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # folder of templates by name


def chat_writer(folder: Path, name: str, day: date | None = None) -> ChatWriter:
    """Return the writer of conversations by the template of a model folder.

    Args:
        name: of the model, for error messages.
        day: the date that the template writes, if it writes one; None means today.

    Raises:
        UserError: when the folder has no readable tokenizer_config.json, or no chat template.
    """
    folder = tokenizer_folder(folder)
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        special_tokens = {name: text for name, text in map(_special, config.items()) if text}
        sources = _sources(folder, config)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"the tokenizer in {folder} cannot be read ({error})") from None
    if not sources:
        raise UserError(f"the tokenizer in {folder} has no chat template")
    return ChatWriter(ChatProgram(sources, special_tokens, day), name)


def _sources(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return templates by name, from where transformers looks for them; files override the configuration."""
    given = config.get("chat_template")
    if isinstance(given, list):  # in older repositories
        sources = {entry["name"]: entry["template"] for entry in given if isinstance(entry, dict) and len(entry) == 2}
    else:
        sources = {"default": given} if isinstance(given, str) else {}
    old = folder / "chat_template.json"
    if old.is_file():
        content = json.loads(old.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
            sources["default"] = content["chat_template"]
    if (folder / TEMPLATE_FILE).is_file():
        sources["default"] = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    for file in sorted((folder / MORE_TEMPLATES).glob("*.jinja")):
        sources[file.stem] = file.read_text(encoding="utf-8")
    return sources


def _special(entry: tuple[str, Any]) -> tuple[str, str | None]:
    """Return name and text of a special token in tokenizer_config.json; the text is None for any other entry."""
    name, value = entry
    text = value.get("content") if isinstance(value, dict) else value
    return name, text if name.endswith("_token") and isinstance(text, str) else None
