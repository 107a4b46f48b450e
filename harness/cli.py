"""The command line: arguments in, one call, output out. Commands import heavy modules when they run."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands import (
    bench,
    completion,
    data,
    export,
    judge,
    names,
    power,
    rejudge,
    score,
    simulate,
    testbed,
    version,
)
from harness.commands.options import Command, Config, RunFolder, RunFolders, experiment, takes
from harness.commands.output import Json, print_json, readable
from harness.errors import UserError
from harness.experiment.scale import with_scale
from harness.files.disk import disk_errors
from harness.files.extras import explain
from harness.signals import Stopped

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Trains SSO and its baselines under identical budgets, scores them, and compares them.",
    epilog="Start with: [bold]harness run --method sso[/bold] (the embedded model, minutes, no download, no key)",
)
app.add_typer(score.app, name="score")
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")
app.add_typer(testbed.app, name="testbed")
app.add_typer(bench.app, name="bench")
app.add_typer(judge.app, name="judge")
app.command("rejudge", epilog=rejudge.EPILOG)(rejudge.rejudge)
app.command("power", epilog=power.EPILOG)(power.power)
app.command("list", epilog=names.EPILOG)(names.list_names)
app.command("simulate", epilog=simulate.EPILOG)(simulate.simulate)


@app.callback()
def everywhere(version: version.Version = False) -> None:
    pass


RESULTS = Path("results")
Results = Annotated[Path, typer.Option(help="Folder of results; runs are in runs/NAME below it.")]
RestartFrom = Annotated[
    str | None,
    typer.Option(
        metavar="STEP",
        help="Recompute these finished steps and what depends on them: STEP or METHOD/STEP, such as sso/policy, "
        "policy-examples, samples-math, score-math; separated by commas.",
    ),
]
Ray = Annotated[
    str | None, typer.Option(help="Run arms on a Ray cluster: its address, 'auto', or 'local' for one on this machine.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Arms (method x seed) that run concurrently, one process each.")]


def _print_table(table: Any, as_json: bool) -> None:
    from harness.tables import to_json, to_markdown
    from harness.tables.terminal import print_table

    if as_json:
        print_json(to_json(table))
    elif sys.stdout.isatty():
        print_table(table)
    else:
        print(to_markdown(table))


@app.command(
    cls=Command,
    epilog="Examples:\n\n  harness run --method sso\n\n"
    "  harness run --method sso,dpo,ipo,self-rewarding --seeds 3 --jobs 2 --name all\n\n"
    "  harness run --method sso --budget updates=40 --set sso.loss=ipo --set sso.learning_rate=1e-4\n\n"
    "  harness run --method sso,dpo --tune 6 --set dpo.beta=0.1 --name tuned\n\n"
    "  harness run --method sso,dpo --model ./my-model --prompts prompts.jsonl --preferences pairs.jsonl "
    "--data-dir data --judge-url http://localhost:8000/v1 --judge-model my-judge\n\n"
    "  harness run --method sso,shorter.py:Shorter --benchmark math,brevity.py:Brevity\n\n"
    "  harness run --method sso,dpo --seeds 3 --dry-run",
)
@takes()
def run(
    given: dict,
    config: Config = None,
    results: Results = RESULTS,
    jobs: Jobs = 1,
    ray: Ray = None,
    restart_from: RestartFrom = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and what is finished already; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train methods under one budget, score them, and print the comparison.

    All results are kept in results/runs/NAME. A second call with the same options reuses them, and an interrupted run
    continues. Changing an option that a finished step depends on is refused.
    """
    from harness.runs.run import run as run_experiment

    asked = experiment(given, config)
    if dry_run:
        from harness.commands.dry_run import print_dry_run
        from harness.runs.dry_run import dry_run as plan

        if restart_from:
            raise UserError("--dry-run does not know what --restart-from would recompute: give one of them")
        found = plan(asked, results)
        print_json(found) if as_json else print_dry_run(found)
        return
    _print_table(run_experiment(asked, results, jobs, restart_from, ray), as_json)


@app.command(
    epilog="Examples:\n\n  harness eval testbed\n\n"
    "  harness eval results/runs/experiment/arms/sso-seed0/checkpoints/policy --benchmark math\n\n"
    "  harness eval ./my-model --data-dir data --benchmark mt-bench --judge-url http://localhost:8000/v1 "
    "--judge-model my-judge\n\n  harness eval my-model --model-url http://localhost:8000/v1 --benchmark mt-bench,math"
)
@takes(
    *("name", "benchmarks", "seeds", "data_dir", "judge_model", "judge_url", "judge_engine", "judge_max_calls"),
    *("judge_max_cost", "judge_price", "judge_concurrency", "judge_rate", "judge_max_tokens", "judge_set"),
    *("judge_missing", "accept_missing", "judge_log", "limit", "answer_tokens"),
    *("system_prompt", "thinking", "thought_marks"),
    *("batch_size", "device", "dtype", "trust_remote_code", "rejudge", "both_orders", "options", "model_url"),
    *("engine", "engine_url", "tensor_parallel", "gpu_memory"),
)
def eval(
    given: dict,
    model: Annotated[
        str,
        typer.Argument(help="'testbed', a folder (also of a PEFT adapter), a hub id, or a name at --model-url."),
    ],
    results: Results = RESULTS,
    restart_from: RestartFrom = None,
    as_json: Json = False,
) -> None:
    """Score a model, checkpoint, adapter or endpoint without training it."""
    from harness.runs.run import run as run_experiment

    parts = Path(model).resolve().parts[-3:] if "/" in model and os.path.isdir(model) else [model]
    name = "eval-" + re.sub(r"[^\w.-]+", "-", "-".join(parts))
    scored = experiment({"name": name} | given | {"model": model, "methods": ["base"]})
    _print_table(run_experiment(scored, results, restart_from=restart_from), as_json)


def _one_thread_each() -> None:
    """Set before importing numpy: work is already parallel, and BLAS threads would oversubscribe the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@app.command(
    epilog="Examples:\n\n  harness table results/runs/experiment\n\n  harness table results/runs/all --json\n\n"
    "  harness table results/runs/one results/runs/two -o both.tex\n\n"
    "  harness table results/runs/all --baseline dpo --format csv -o all.csv\n\n"
    "  harness table results/runs/all --reported Qwen2-7B-Instruct\n\n  harness table results/runs/all --checkpoints"
)
def table(
    run_folders: RunFolders,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="markdown, latex, csv, json or html; default: by the suffix of the file, or markdown.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: print the table.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Method to compare the others with; default: base.")
    ] = None,
    reported: Annotated[
        str | None, typer.Option(help="Also show published rows of a model, such as Llama3-8B-SFT, or 'all'.")
    ] = None,
    reported_file: Annotated[Path, typer.Option(help="File of published numbers.")] = RESULTS / "reported.yaml",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Scores of one run along the way.")] = False,
    as_json: Json = False,
) -> None:
    """Print the table of finished runs, recomputed from their stored scores.

    Runs share a table if they are comparable: the same start model, questions, settings and judge.
    """
    _one_thread_each()
    if checkpoints:
        from harness.commands.along import show_checkpoints

        return show_checkpoints(run_folders, as_json, output, format=form, baseline=baseline, reported=reported)
    from harness.commands.tables import show_table

    if as_json and form not in (None, "json"):
        raise UserError(f"--json and --format {form} ask for two formats: give one")
    show_table(run_folders, "json" if as_json else form, output, baseline, reported, reported_file)


@app.command(epilog="Examples:\n\n  harness leaderboard\n\n  harness leaderboard --results results -o LEADERBOARD.md")
def leaderboard(
    results: Results = RESULTS,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: LEADERBOARD.md in the folder of results."),
    ] = None,
) -> None:
    """Write the leaderboard of all finished experiments, grouped by what is comparable.

    It says which experiments were left out, and why. The same experiments give the same file.
    """
    _one_thread_each()
    from harness.commands.tables import write_leaderboard

    print(write_leaderboard(results, output))


@app.command(
    epilog="Examples:\n\n  harness report results/runs/experiment\n\n  harness report results/runs/all -o all.html"
)
def report(
    run_folder: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write; default: report.html in the run folder.")
    ] = None,
) -> None:
    """Write a finished run as a web page: who won, by how much, how certain that is, what it cost, and all samples.

    The page is one file and needs no network.
    """
    from harness.commands.report import write_report

    print(write_report(run_folder, output))


@app.command(
    epilog="Examples:\n\n  harness check results/runs/ci --against results/reference/testbed.json\n\n"
    "  harness check results/runs/ci --against results/reference/testbed.json --junit check.xml --json\n\n"
    "  harness check results/runs/reference --against results/reference/testbed.json --update"
)
def check(
    run_folder: RunFolder,
    against: Annotated[Path, typer.Option(help="The reference, such as results/reference/testbed.json.")],
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="How much worse a score may be, as a share of the reference's, such as 0.02; default: enough for "
            "equal runs to pass.",
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the findings as JUnit XML.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Make the run the reference, without a check.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a finished run with a stored reference; exit code 1 if it is worse.

    Identical results pass. Otherwise, no score may be worse by a margin, and each measure of training must be where
    another seed of the reference would be, with a bounded rate of false alarms.
    """
    from harness.commands import check as check_output
    from harness.regression import gate, reference

    if update:
        reference.write(against, run_folder, f"harness check {run_folder} --against {against} --update")
        print(against)
        return
    checked = gate.check(reference.measure(run_folder), reference.read(against), margin)
    if junit:
        check_output.write_junit(checked, junit)
    if as_json:
        print_json(check_output.as_json(checked, run_folder, against))
    else:
        check_output.print_check(checked, run_folder, against)
    check_output.annotate_github(checked)
    if not checked.passed:
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n  harness figure pairs results/runs/all -o pairs.svg\n\n"
    "  harness figure budgets results/runs/half results/runs/all results/runs/double -o budgets.svg\n\n"
    "  harness figure checkpoints results/runs/all -o checkpoints.svg"
)
def figure(
    kind: Annotated[
        str,
        typer.Argument(
            help="pairs: accuracy of one run's pairs against their probability. budgets: scores of runs that differ in "
            "budget. checkpoints: scores of one run along the way against FLOPs."
        ),
    ],
    run_folders: RunFolders,
    output: Annotated[Path, typer.Option("--output", "-o", help="SVG file to write.")],
) -> None:
    """Draw a figure of one or several runs as an SVG file."""
    from harness.commands.report import write_figure

    print(write_figure(kind, run_folders, output))


@app.command(epilog="Examples:\n\n  harness verify results/runs/experiment\n\n  harness verify results/runs/all --json")
def verify(run_folder: RunFolder, as_json: Json = False) -> None:
    """Recompute every digest, score and table of a run; exit code 1 on any mismatch.

    Digests are those of samples, checkpoints, training data, model, prompts and questions. Scores are recomputed from
    samples and judgments, the table from scores. No model is loaded and no judge is asked.
    """
    from harness.commands.runs import print_verified
    from harness.runs.verify import verify as verify_run

    report = verify_run(run_folder)
    if as_json:
        print_json(report)
    else:
        print_verified(report)
    if not report["verified"]:
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n  harness show results/runs/experiment mt-bench\n\n"
    "  harness show results/runs/experiment math --differing\n\n"
    "  harness show results/runs/experiment mt-bench --question 10001\n\n"
    "  harness show results/runs/all math --question testbed/7 --method sso,dpo --seed 0 --json"
)
def show(
    run_folder: RunFolder,
    benchmark: Annotated[str, typer.Argument(help="A benchmark of the run, such as mt-bench.")],
    question: Annotated[str | None, typer.Option(help="Id of a question; default: show the values of all.")] = None,
    methods: Annotated[
        str, typer.Option("--method", "--methods", "-m", help="Methods, separated by commas; default: all.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="One seed; default: all.")] = None,
    differing: Annotated[bool, typer.Option("--differing", help="Only questions on which methods differ.")] = False,
    page: Annotated[
        int | None, typer.Option(min=1, help="One page of the values; default: the first on a terminal, else all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Trace a table's cell to its samples: question, answers, judgments and values."""
    from harness.commands.runs import print_question, print_values
    from harness.runs.show import question as trace
    from harness.runs.show import values

    chosen = tuple(name.strip() for name in methods.split(",") if name.strip())
    if question is None:
        traced = values(run_folder, benchmark, chosen, seed, differing)
    else:
        traced = trace(run_folder, benchmark, question, chosen, seed)
    if as_json:
        print_json(traced)
    elif question is None:
        print_values(traced, page or (1 if sys.stdout.isatty() else None))
    else:
        print_question(traced)


@app.command(
    epilog="Examples:\n\n  harness estimate llama3-8b-instruct\n\n"
    "  harness estimate llama3-8b-instruct --gpu a100 --gpus 4\n\n"
    "  harness estimate --method sso,dpo --budget 1e12 --json\n\n  harness estimate --method sso,dpo --tune 6\n\n"
    "  harness estimate --method sso --budget 5e12 --calibrate results/runs/experiment"
)
@takes(without=("gpus",))
def estimate(
    given: dict,
    preset: Annotated[
        Path | None,
        typer.Argument(
            help="A preset (harness list) or a YAML file.",
            show_default=False,
            autocompletion=completion.configurations,
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(help="GPU whose speed is assumed: h100, h200, a100, l40s.")] = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that share the work; each training runs on all of them.")] = 8,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="A finished run on this machine, whose measured speed is used instead of a GPU's."),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print what a run would do and cost: tokens, hours, memory, judge calls and their price, disk.

    It takes the options of harness run.
    """
    from harness.commands.estimate import print_estimate
    from harness.runs.cost import cost
    from harness.runs.gguf_models import with_unpacked_models

    if preset and config:
        raise UserError(f"give {preset} or --config {config}, not both")
    asked = with_unpacked_models(experiment(given, preset or config), RESULTS)
    planned = cost(with_scale(asked), gpu, 1 if calibrate else gpus, calibrate)
    if as_json:
        print_json(planned)
    else:
        print_estimate(planned)


@app.command(
    epilog="Example:\n\n  harness schema > experiment.schema.json\n\n"
    "An editor checks a file that begins with: # yaml-language-server: $schema=experiment.schema.json"
)
def schema() -> None:
    """Print the JSON schema of an experiment file: options with their help, limits and defaults."""
    from harness.experiment.schema import schema as schema_of_experiments

    print_json(schema_of_experiments())


def main() -> None:
    """Run the command line: user errors print one line and exit 2; signals exit 128 + number."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; ours show the progress
    try:
        with disk_errors():
            app()
    except UserError as error:
        _end(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        if (explained := explain(error)) is None:
            raise
        _end(f"error: {explained}", 2)
    except Stopped as stopped:
        _end(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        _end("stopped by SIGINT", 128 + signal.SIGINT)


def _end(text: str, code: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not print a traceback
    print(readable(text), file=sys.stderr)
    sys.exit(code)
