"""Export the pairs of a stage as a data set in TRL's conversational format: prompt, chosen, rejected as messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.exports import arms, cards
from harness.files import store
from harness.files.disk import whole
from harness.methods.base import Stage
from harness.runs.arm import Arm
from harness.stages.train import collecting
from harness.types import reply_messages

DATA_FILE = "train.parquet"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
COLUMNS = {
    "id": "id of the prompt",
    "prompt": "messages up to the reply",
    "chosen": "the preferred reply, a message",
    "rejected": "the other reply, a message",
    "tools": "functions that the chat template describes",
    "chat_template_kwargs": "variables for the chat template",
    "features": "what the principles are about",
    "good_principle": "principle with which the chosen reply was sampled",
    "bad_principle": "principle with which the rejected reply was sampled",
    "plain": "reply that was sampled without a principle",
}
OTHER = "noted by the method"
LICENCE = (
    "None is given here. The prompts have the licence of their source, and the replies that of the model that wrote "
    "them: add `license:` above when you publish this."
)


def export_preferences(run: Path, method: str, seed: int, output: Path, stage: str | None = None) -> Path:
    """Write the pairs that a stage of an arm was trained on, with a card.

    Args:
        stage: its name; by default the last.

    Returns: the folder.

    Raises:
        UserError: when the stage is not finished or not trained on pairs, or `output` already exists.
    """
    from datasets import Dataset

    arms.check_free(output)
    arm = arms.arm_of(run, method, seed)
    chosen = arms.stage_of(arm, stage)
    arms.finished(arm, collecting(chosen))
    rows = list(_rows(arm.folder.preferences(chosen.name)))
    if not rows:
        raise UserError(f"{method} is not trained on pairs in stage {chosen.name!r}: it has no preferences to export")
    dataset = Dataset.from_list(rows)
    with whole(output.resolve()) as folder:
        folder.mkdir()
        dataset.to_parquet(folder / DATA_FILE)
        digest = store.file_digest(folder / DATA_FILE)
        store.write_text(folder / cards.README, _card(arm, chosen, len(rows), dataset.column_names, digest))
    return output


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The pairs with everything but their token ids."""
    for row in store.iterate_jsonl(file):
        if {"chosen", "rejected"} <= row.keys():
            del row["sequences"]
            first = {"id": row.pop("id"), "prompt": row.pop("prompt")}
            pair = {side: list(reply_messages(row.pop(side))) for side in ("chosen", "rejected")}
            yield first | pair | row


def _card(arm: Arm, stage: Stage, number: int, columns: list[str], digest: str) -> str:
    front = {
        "pretty_name": f"Preferences of {arm.experiment.name}: {arm.label}, {stage.name}",
        "tags": ["trl", "preference", "dpo"],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for most, name in SIZES if number < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": DATA_FILE}]}],
    }
    facts = {"pairs": number, f"{DATA_FILE}, SHA-256": digest, **arms.provenance(arm, stage)}
    return cards.card(
        front,
        f"# Preferences: {cards.code(arm.label)}",
        f"Pairs of replies in the conversational preference format of TRL, made by {cards.code(arm.method.name)} "
        f"({cards.code(arm.method.supervision(arm.options))}). `load_dataset(FOLDER)` reads them, and `DPOTrainer` "
        "takes them as they are.",
        "## Columns",
        cards.table(("column", "what it holds"), {name: cards.Prose(COLUMNS.get(name, OTHER)) for name in columns}),
        "## Where it comes from",
        cards.table(("what", "value"), facts),
        "## Options of the method",
        cards.table(("option", "value"), arms.options(arm)),
        "## Licence",
        LICENCE,
    )
