"""Export a checkpoint with a model card: its training, the cost, and the scores."""

import shutil
from pathlib import Path

from harness.exports import arms, cards, hub_results
from harness.files import store
from harness.files.disk import whole
from harness.methods.base import Stage
from harness.results.folder import table_of
from harness.runs.arm import Arm
from harness.tables import to_markdown

LICENCE = "None is given here; those of the start model and its training data apply. Add `license:` above."


def export_model(run: Path, method: str, seed: int, output: Path, stage: str | None = None) -> Path:
    """Write the checkpoint of a stage of an arm (safetensors, config, tokenizer, chat template) and a card.

    Args:
        stage: its name; by default the last, whose scores the card then has.

    Returns: the folder.

    Raises:
        UserError: when the run is not finished, the arm trains nothing, or `output` already exists.
    """
    arms.check_free(output)
    arm = arms.arm_of(run, method, seed)
    chosen = arms.stage_of(arm, stage)
    mark = arms.finished(arm, chosen.name)
    checkpoint = arm.folder.checkpoint(chosen.name)
    digests = {
        str((arm.folder / name).relative_to(checkpoint)): digest
        for name, digest in mark.files.items()
        if (arm.folder / name).is_relative_to(checkpoint)
    }
    with whole(output.resolve()) as folder:
        for name in digests:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / name, folder / name)
        store.write_text(folder / cards.README, _card(run, arm, chosen, digests))
    return output


def _card(run: Path, arm: Arm, stage: Stage, digests: dict[str, str]) -> str:
    experiment, method = arm.experiment, arm.method
    scored = stage is arm.stages[-1]
    name = f"{experiment.name}: {arm.label}"
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **arms.base_model(experiment),
        "tags": ["trl", "preference", method.name],
        **(hub_results.model_index(name, arm) if scored else {}),
    }
    about = f"This model is one of {experiment.seeds} seed(s) of {cards.code(arm.name)} in the table."
    if not scored:
        about = f"This is not the model that was scored, but that of the stage {cards.code(stage.name)}."
    return cards.card(
        front,
        f"# {cards.code(arm.label)}, {cards.code(stage.name)}",
        f"{cards.code(arms.model_name(experiment))} after {cards.code(method.name)}: {cards.code(method.summary)}. "
        f"Where the preferences come from: {cards.code(method.supervision(arm.options))}.",
        "## Results of the experiment",
        about,
        _below(to_markdown(table_of(run))),
        "## Budget",
        cards.table(("role", "spent"), arms.ledger(arm)),
        "## Where it comes from",
        cards.table(("what", "value"), arms.provenance(arm, stage)),
        "## Options of the method",
        cards.table(("option", "value"), arms.options(arm)),
        "## Files",
        cards.table(("file", "SHA-256"), digests),
        "## Licence",
        LICENCE,
    )


def _below(markdown: str) -> str:
    """The text with its headings one level lower."""
    return "\n".join(f"#{line}" if line.startswith("## ") else line for line in markdown.rstrip().split("\n"))
