"""`harness export`: preferences, models and scores of a finished run for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import RunFolder

app = typer.Typer(no_args_is_help=True, help="Preferences, models and scores of a finished run, for other tools.")

Method = Annotated[str, typer.Option("--method", "-m", help="A method of the run.", show_default=False)]
Seed = Annotated[int, typer.Option(help="A seed of the run.")]
Stage = Annotated[str | None, typer.Option(help="A stage of the method, such as generator; default: the last.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write, which must not exist.", show_default=False)
]


@app.command(
    epilog="Examples:\n\n  harness export preferences results/runs/experiment --method sso -o preferences\n\n"
    "  harness export preferences results/runs/experiment --method sso --seed 0 --stage generator -o pairs"
)
def preferences(run_folder: RunFolder, method: Method, output: Output, seed: Seed = 0, stage: Stage = None) -> None:
    """Write the pairs that a method made as a data set in TRL's format: Parquet and a card."""
    from harness.exports.preferences import export_preferences

    print(export_preferences(run_folder, method, seed, output, stage))


@app.command(epilog="Example:\n\n  harness export model results/runs/experiment --method sso --seed 0 -o model")
def model(run_folder: RunFolder, method: Method, output: Output, seed: Seed = 0, stage: Stage = None) -> None:
    """Write a trained model with a card: scores, the table of the run, budget and origin."""
    from harness.exports.model import export_model

    print(export_model(run_folder, method, seed, output, stage))


@app.command(
    epilog="Examples:\n\n  harness export scores results/runs/experiment --format lm-eval --samples -o scores\n\n"
    "  harness export scores results/runs/experiment --format hub --method sso --seed 0 -o hub-scores"
)
def scores(
    run_folder: RunFolder,
    output: Output,
    form: Annotated[str, typer.Option("--format", help="lm-eval, or hub (evaluation results).")] = "lm-eval",
    methods: Annotated[
        str, typer.Option("--method", "--methods", "-m", help="Methods, separated by commas; default: all.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="One seed; default: all.")] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Also write each question and answer (lm-eval).")] = False,
) -> None:
    """Write scores in lm-eval's or the hub's format, one folder per method and seed."""
    from harness.exports.scores import export_scores

    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    print(export_scores(run_folder, form, output, chosen, seed, samples))
