"""The command line: arguments in, one call, output out. Heavy imports wait until a command needs them."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import experiment as experiments
from harness import registry
from harness.errors import UserError
from harness.experiment import Experiment

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Trains SSO and its baselines under identical budgets, scores them, and compares them.",
    epilog="Start with: [bold]harness run --method sso[/bold] (the embedded model, minutes, no download, no key)",
)
testbed = typer.Typer(no_args_is_help=True, help="The embedded small model and its benchmark suites.")
app.add_typer(testbed, name="testbed")
data = typer.Typer(no_args_is_help=True, help="The files of the real benchmarks.")
app.add_typer(data, name="data")

RESULTS = Path("results")
_FIELDS = {each.name: each for each in dataclasses.fields(Experiment)}


def _option(name: str, *flags: str) -> Any:
    """A command-line option with the help text and default that the experiment's field has."""
    default = _FIELDS[name].default
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = _FIELDS[name].metadata["help"]
    if shown not in (None, dataclasses.MISSING, False):
        text += f" [dim]\\[default: {shown}][/dim]"
    return typer.Option(*flags, help=text, show_default=False)


Config = Annotated[Path | None, typer.Option(help="YAML file with any of these options; the command line wins.")]
Name = Annotated[str | None, _option("name")]
Methods = Annotated[str | None, _option("methods", "--method", "--methods", "-m")]
Benchmarks = Annotated[str | None, _option("benchmarks", "--benchmark", "--benchmarks", "-b")]
Seeds = Annotated[int | None, _option("seeds")]
BudgetText = Annotated[str | None, _option("budget")]
Model = Annotated[str | None, _option("model")]
Prompts = Annotated[str | None, _option("prompts")]
Preferences = Annotated[str | None, _option("preferences")]
DataDir = Annotated[str | None, _option("data_dir")]
JudgeModel = Annotated[str | None, _option("judge_model")]
JudgeUrl = Annotated[str | None, _option("judge_url")]
Limit = Annotated[int | None, _option("limit")]
AnswerTokens = Annotated[int | None, _option("answer_tokens")]
MaxNewTokens = Annotated[int | None, _option("max_new_tokens")]
Temperature = Annotated[float | None, _option("temperature")]
TopP = Annotated[float | None, _option("top_p")]
CompletionTokens = Annotated[int | None, _option("completion_tokens")]
BatchSize = Annotated[int | None, _option("batch_size")]
Device = Annotated[str | None, _option("device")]
TrustRemoteCode = Annotated[bool | None, _option("trust_remote_code", "--trust-remote-code")]
Rejudge = Annotated[bool | None, _option("rejudge", "--rejudge")]
BothOrders = Annotated[bool | None, _option("both_orders", "--both-orders")]
Settings = Annotated[list[str] | None, _option("options", "--set")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for machines.")]
Results = Annotated[Path, typer.Option(help="Folder of results; runs go below it, in runs/NAME.")]
Jobs = Annotated[int, typer.Option(min=1, help="Arms (method x seed) that run at the same time, a process each.")]


def _experiment(config: Path | None, settings: list[str] | None, given: dict[str, Any]) -> Experiment:
    values = experiments.load(config) if config else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if settings:
        options = {name: dict(changes) for name, changes in (values.get("options") or {}).items()}
        for method, changes in experiments.parse_options(settings).items():
            options.setdefault(method, {}).update(changes)
        values["options"] = options
    return experiments.build(Experiment, values, "option")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(table: Any, as_json: bool) -> None:
    from harness.tables import to_json, to_markdown

    if as_json:
        _print_json(to_json(table))
    else:
        print(to_markdown(table))


@app.command(
    epilog="Examples:\n\n  harness run --method sso\n\n"
    "  harness run --method sso,dpo,ipo,self-rewarding --seeds 3 --jobs 2 --name all\n\n"
    "  harness run --method sso --budget updates=40 --set sso.loss=ipo --set sso.learning_rate=1e-4\n\n"
    "  harness run --method dpo --model ./my-model --prompts prompts.jsonl --preferences pairs.jsonl "
    "--data-dir data --judge-url http://localhost:8000/v1 --judge-model my-judge"
)
def run(
    config: Config = None,
    name: Name = None,
    methods: Methods = None,
    benchmarks: Benchmarks = None,
    seeds: Seeds = None,
    budget: BudgetText = None,
    model: Model = None,
    prompts: Prompts = None,
    preferences: Preferences = None,
    data_dir: DataDir = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    limit: Limit = None,
    answer_tokens: AnswerTokens = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    completion_tokens: CompletionTokens = None,
    batch_size: BatchSize = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = None,
    rejudge: Rejudge = None,
    both_orders: BothOrders = None,
    settings: Settings = None,
    results: Results = RESULTS,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Train methods under one budget, score them, and print the comparison.

    Everything that happened is left under results/runs/NAME. A second call with the same options reuses it, and an
    interrupted run goes on.
    """
    given = {key: value for key, value in locals().items() if key in _FIELDS}
    experiment = _experiment(config, settings, given)
    from harness.runner import run as run_experiment

    table = run_experiment(experiment, results, jobs)
    _print_table(table, as_json)


@app.command(
    epilog="Examples:\n\n  harness eval testbed\n\n"
    "  harness eval results/runs/experiment/arms/sso-seed0/checkpoints/policy --benchmark math\n\n"
    "  harness eval ./my-model --data-dir data --benchmark mt-bench --judge-url http://localhost:8000/v1 "
    "--judge-model my-judge"
)
def eval(
    model: Annotated[str, typer.Argument(help="'testbed', a folder or a hub id.")],
    name: Name = None,
    benchmarks: Benchmarks = None,
    seeds: Seeds = None,
    data_dir: DataDir = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    limit: Limit = None,
    answer_tokens: AnswerTokens = None,
    batch_size: BatchSize = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = None,
    rejudge: Rejudge = None,
    both_orders: BothOrders = None,
    settings: Settings = None,
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Score a model or checkpoint without training it."""
    given = {key: value for key, value in locals().items() if key in _FIELDS and value is not None}
    given.setdefault("name", "eval-" + "-".join(Path(model).resolve().parts[-3:] if "/" in model else [model]))
    experiment = _experiment(None, settings, given | {"methods": ["base"]})
    from harness.runner import run as run_experiment

    _print_table(run_experiment(experiment, results), as_json)


@app.command(epilog="Examples:\n\n  harness table results/runs/experiment\n\n  harness table results/runs/all --json")
def table(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as results/runs/experiment.")],
    as_json: Json = False,
) -> None:
    """Print the table of a finished run, computed anew from its stored scores."""
    from harness.runner import write_table

    _print_table(write_table(run_folder), as_json)


@app.command(
    epilog="Examples:\n\n  harness estimate --method sso,dpo --budget 1e12\n\n"
    "  harness estimate --method sso --budget prompts=2000 --json"
)
def estimate(
    config: Config = None,
    methods: Methods = None,
    seeds: Seeds = None,
    budget: BudgetText = None,
    model: Model = None,
    prompts: Prompts = None,
    preferences: Preferences = None,
    completion_tokens: CompletionTokens = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print what a run will do and cost, before it runs."""
    given = {key: value for key, value in locals().items() if key in _FIELDS}
    experiment = _experiment(config, settings, given)
    from harness.inputs import load_prompts
    from harness.planning import estimate as plan

    planned = plan(experiment, *load_prompts(experiment))
    if as_json:
        _print_json(planned)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"Plan under {planned['budget']} a run, {planned['parameters']:,} parameters")
    for column in ("method", "stage", "queries", "examples", "updates", "trained tokens", "FLOPs"):
        shown.add_column(column, justify="left" if column in ("method", "stage") else "right")
    for method, plan_of in planned["methods"].items():
        for stage in plan_of["stages"]:
            numbers = (stage["queries"], stage["examples"], stage["updates"], stage["trained_tokens"])
            shown.add_row(method, stage["stage"], *(f"{number:,}" for number in numbers), f"{stage['flops']:.3g}")
    Console().print(shown)
    print(f"{planned['seeds']} seed(s) of every method: {planned['flops']:.3g} FLOPs in all, scoring apart")


@app.command("list", epilog="Examples:\n\n  harness list\n\n  harness list --json")
def list_names(as_json: Json = False) -> None:
    """List methods and benchmarks."""
    methods = {name: registry.load("method", name).summary for name in registry.names("method")}
    benchmarks = {name: registry.load("benchmark", name).title for name in registry.names("benchmark")}
    if as_json:
        _print_json({"methods": methods, "benchmarks": benchmarks})
        return
    for kind, entries in (("Methods", methods), ("Benchmarks", benchmarks)):
        print(f"{kind}:")
        for name, text in entries.items():
            print(f"  {name:16} {text}")


@testbed.command(
    epilog="Examples:\n\n  harness testbed build --out my-testbed\n\n  harness testbed build --out t --steps 50"
)
def build(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, fewer for a try.")] = None,
    as_json: Json = False,
) -> None:
    """Make the embedded model again from nothing and say how close it comes to the shipped one (about 25 minutes)."""
    from harness.testbed import MODEL_DIR
    from harness.testbed.build import Recipe
    from harness.testbed.build import build as build_model
    from harness.testbed.measure import compare

    recipe = Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps)
    facts = build_model(out, recipe) | {"compared": compare(out, MODEL_DIR)}
    if as_json:
        _print_json(facts)
    else:
        print(f"{out}: {facts['compared']}")
        for name, value in facts["measured"].items():
            print(f"  {name:32} {value}")


@testbed.command(epilog="Example:\n\n  harness testbed suites my-suites")
def suites(folder: Annotated[Path, typer.Argument(help="Where to write them.")]) -> None:
    """Write the testbed's benchmark suites, in the files and formats of the real benchmarks."""
    from harness.testbed.suites import write_suites

    write_suites(folder)
    print(f"wrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}")


@data.command(epilog="Examples:\n\n  harness data fetch mt-bench\n\n  harness data fetch math --data-dir benchmarks")
def fetch(
    name: Annotated[str, typer.Argument(help="A benchmark, such as mt-bench.")],
    data_dir: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("data"),
) -> None:
    """Fetch a benchmark's files from where they are published (uses the network)."""
    from harness.data import fetch as fetch_files

    for path in fetch_files(name, data_dir):
        print(path)


@data.command("list", epilog="Example:\n\n  harness data list")
def list_files(as_json: Json = False) -> None:
    """List the files of the benchmarks, with their source and licence."""
    from harness.data import table as files

    rows = {name: [dataclasses.asdict(file) for file in entries] for name, entries in files().items()}
    if as_json:
        _print_json(rows)
        return
    for name, entries in rows.items():
        print(name)
        for entry in entries:
            print(f"  {entry['path']}  {entry['licence']}  {entry['url']}")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars; ours say what is going on
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
