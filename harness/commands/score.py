"""`harness score`: scores existing outputs and judgments by the functions that score live runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.data import DATA
from harness.commands.output import Json, print_facts, print_json, print_rows
from harness.progress import progress
from harness.thoughts import parse_marks

app = typer.Typer(
    no_args_is_help=True,
    help="Score existing outputs or judgments in the upstream formats (plain or .gz).",
)

Responses = Annotated[Path, typer.Option(help="JSONL or a JSON list, one response per row.")]
ThoughtMarks = Annotated[
    str | None,
    typer.Option(
        "--thought-marks", help="What opens and closes a model's thought, such as '<think> </think>', or none."
    ),
]
Items = Annotated[bool, typer.Option("--items", help="Also print a verdict per row.")]


@app.command(
    "mt-bench",
    epilog="Examples:\n\n  harness score mt-bench --judgments gpt-4_single.jsonl\n\n"
    "  harness score mt-bench --judgments gpt-4_single.jsonl.gz --reparse --json",
)
def mt_bench(
    judgments: Annotated[Path, typer.Option(help="FastChat's single-answer judgments.")],
    reparse: Annotated[
        bool,
        typer.Option(
            "--reparse", help="Parse verdicts from the judgments' texts again instead of using the stored scores."
        ),
    ] = False,
    questions: Annotated[
        Path | None,
        typer.Option(help="question.jsonl with the categories; default: those of the official 80 questions."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the mean rating of each model by turn and category (as FastChat: every row with a verdict counts)."""
    from harness.benchmarks.mt_bench_judgments import score_judgments

    result = score_judgments(judgments, reparse=reparse, questions=questions)
    if as_json:
        print_json(result)
        return
    columns = ("score", "turn_1", "turn_2", "judged", "unparsed", "duplicates")
    rows = [(name, *(model[column] for column in columns)) for name, model in result["models"].items()]
    print_rows(("model", *columns), rows)
    categories = sorted({name for model in result["models"].values() for name in model["categories"]})
    rows = [(name, *(model["categories"].get(each) for each in categories)) for name, model in result["models"].items()]
    print_rows(("model", *categories), rows)


@app.command(
    "alpaca-eval",
    epilog="Examples:\n\n  harness score alpaca-eval --annotations annotations.json\n\n"
    "  harness score alpaca-eval --annotations annotations.json.gz --df-gamed df_gamed.csv --json",
)
def alpaca_eval(
    annotations: Annotated[Path, typer.Option(help="AlpacaEval's annotations of one model.")],
    df_gamed: Annotated[
        Path | None,
        typer.Option(
            "--df-gamed", help="df_gamed.csv, required for the length-controlled win rate (harness data fetch)."
        ),
    ] = None,
    from_logprobs: Annotated[
        bool, typer.Option("--from-logprobs", help="Parse each preference from the stored completion again.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    thought_marks: ThoughtMarks = None,
    as_json: Json = False,
) -> None:
    """Print the raw and length-controlled win rates in percent, with a bootstrap interval."""
    from harness.benchmarks.alpaca_annotations import score_annotations

    marks = parse_marks(thought_marks)
    found = score_annotations(annotations, df_gamed=df_gamed, from_logprobs=from_logprobs, seed=seed, marks=marks)
    _print(found, as_json)


@app.command("reward-bench", epilog="Example:\n\n  harness score reward-bench --results results.json --json")
def reward_bench(
    results: Annotated[Path, typer.Option(help="Accuracies by subset, or rows with subset and correct.")],
    as_json: Json = False,
) -> None:
    """Print the sections, their mean (as papers report it) and the leaderboard's total, in the unit of the file."""
    from harness.benchmarks.reward_bench_scores import score_results

    _print(score_results(results), as_json)


@app.command(
    "math",
    epilog="Examples:\n\n  harness score math --responses responses.jsonl\n\n"
    "  harness score math --responses responses.jsonl.gz --items --json",
)
def math(responses: Responses, items: Items = False, thought_marks: ThoughtMarks = None, as_json: Json = False) -> None:
    """Print the percentage of responses whose last box is the answer, by string and by math-verify."""
    from harness.benchmarks.math import score_responses

    _print_graded(score_responses, responses, items, thought_marks, as_json)


@app.command("gsm8k", epilog="Example:\n\n  harness score gsm8k --responses responses.jsonl --json")
def gsm8k(
    responses: Responses, items: Items = False, thought_marks: ThoughtMarks = None, as_json: Json = False
) -> None:
    """Print the percentage of responses with the right final number."""
    from harness.benchmarks.gsm8k import score_responses

    _print_graded(score_responses, responses, items, thought_marks, as_json)


@app.command(
    "ifeval",
    epilog="Examples:\n\n  harness score ifeval --responses responses.jsonl\n\n"
    "  harness score ifeval --responses responses.jsonl --data-dir data --items --json",
)
def ifeval(
    responses: Responses,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with ifeval/input_data.jsonl, for rows without instruction ids; default: data, if it exists."
        ),
    ] = None,
    items: Items = False,
    thought_marks: ThoughtMarks = None,
    as_json: Json = False,
) -> None:
    """Print the percentage of prompts and of instructions that were followed, strictly and loosely."""
    from harness.benchmarks.ifeval import score_responses

    def score(path: Path, **options: Any) -> dict:
        return score_responses(path, data_dir=data_dir or (DATA if DATA.is_dir() else None), **options)

    _print_graded(score, responses, items, thought_marks, as_json)


def _print_graded(
    score: Callable[..., dict], responses: Path, items: bool, thought_marks: str | None, as_json: bool
) -> None:
    with progress(f"grade {responses.name}", None) as advance:
        result = score(responses, items=items, advance=advance, marks=parse_marks(thought_marks))
    verdicts = result.pop("items", [])
    _print(result | ({"items": verdicts} if items and as_json else {}), as_json)
    if verdicts and not as_json:
        print_rows(list(verdicts[0]), (row.values() for row in verdicts))


def _print(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print_facts(result)
