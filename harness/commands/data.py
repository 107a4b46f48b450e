"""`harness data`: files of the real benchmarks."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from harness.commands import completion
from harness.commands.output import Json, print_json, print_rows
from harness.files.downloads import Files

app = typer.Typer(no_args_is_help=True, help="Files of the real benchmarks: list, fetch, verify.")

DataDir = Annotated[Path, typer.Option(help="Folder for the files.")]
Table = Annotated[
    Path | None,
    typer.Option("--table", help="A table of pinned files, such as that of a mirror; default: the benchmarks' own."),
]
DATA = Path("data")


def _files(table: Path | None) -> Files:
    from harness.benchmarks.loading import data_files
    from harness.files import downloads
    from harness.methods import training_files

    return downloads.table(table) if table else data_files() | {training_files.NAME: training_files.TRAINING_FILES}


@app.command("list", epilog="Example:\n\n  harness data list")
def list_files(table: Table = None, as_json: Json = False) -> None:
    """List the files of the benchmarks, with their source and licence."""
    rows = {name: [dataclasses.asdict(file) for file in entries] for name, entries in _files(table).items()}
    if as_json:
        print_json(rows)
        return
    for name, entries in rows.items():
        print(name)
        for entry in entries:
            source = (entry["licence"], entry["url"]) if "url" in entry else ("data set", entry["dataset"])
            print("  " + "  ".join((entry["path"], *source)))


@app.command(epilog="Examples:\n\n  harness data fetch mt-bench\n\n  harness data fetch math --data-dir benchmarks")
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A benchmark, such as mt-bench, or training: prompts and pairs.", autocompletion=completion.benchmarks
        ),
    ],
    data_dir: DataDir = DATA,
    table: Table = None,
) -> None:
    """Fetch the files of a benchmark, or of training, from where they are published (uses the network)."""
    from harness.files.downloads import fetch as fetch_files

    for path in fetch_files(name, data_dir, _files(table)):
        print(path)


@app.command(epilog="Examples:\n\n  harness data verify\n\n  harness data verify mt-bench --data-dir benchmarks --json")
def verify(
    name: Annotated[
        str | None, typer.Argument(help="A benchmark; default: all.", autocompletion=completion.benchmarks)
    ] = None,
    data_dir: DataDir = DATA,
    table: Table = None,
    as_json: Json = False,
) -> None:
    """Compare files with their pinned sha256; exit code 1 if one has changed, or a named benchmark lacks one."""
    from harness.files.downloads import verify as verify_files

    results = verify_files(name, data_dir, _files(table))
    if as_json:
        print_json(results)
    else:
        columns = ("benchmark", "path", "status", "licence")
        print_rows(columns, ([result[column] for column in columns] for result in results))
    bad = {"changed", "missing"} if name else {"changed"}
    if any(result["status"] in bad for result in results):
        raise typer.Exit(1)
