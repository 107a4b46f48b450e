"""`harness testbed`: the embedded small model and its benchmark suites."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.output import Json, print_json

app = typer.Typer(no_args_is_help=True, help="The embedded small model and its benchmark suites.")


@app.command(
    epilog="Examples:\n\n  harness testbed build --out my-testbed\n\n  harness testbed build --out t --steps 50"
)
def build(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; fewer for a quick test.")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild the embedded model from scratch and compare it with the shipped one (about 25 minutes)."""
    from harness.models.folder import MODEL_DIR
    from harness.testbed.build import Recipe
    from harness.testbed.build import build as build_model
    from harness.testbed.measure import compare

    recipe = Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps)
    facts = build_model(out, recipe) | {"compared": compare(out, MODEL_DIR)}
    if as_json:
        print_json(facts)
    else:
        print(f"{out}: {facts['compared']}")
        for name, value in facts["measured"].items():
            print(f"  {name:32} {value}")


@app.command(epilog="Example:\n\n  harness testbed suites my-suites")
def suites(folder: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Write the testbed's benchmark suites, in the files and formats of the real benchmarks."""
    from harness.testbed.suites import write_suites

    write_suites(folder)
    print(f"wrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}")
