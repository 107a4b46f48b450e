"""`harness bench`: speed and memory compared with other libraries."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.data import DATA
from harness.commands.output import Json, print_json, print_rows, readable
from harness.errors import UserError, unknown_name
from harness.perf import workload
from harness.perf.train import CONTENDERS, ON_REQUEST, measure

app = typer.Typer(no_args_is_help=True, help="Speed and memory compared with other libraries, measured in turns.")

MEGABYTE = 1 << 20
Rounds = Annotated[int, typer.Option(min=1, help="Measurements per contender, in turns.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads per contender.", show_default="all cores")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: float32 on the CPU, bfloat16 on a GPU.")]
PeakFlops = Annotated[
    float | None,
    typer.Option(help="FLOP/s of the machine.", show_default="its fastest matrix product"),
]


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_positive(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{option} must be above 0, not {value}")


@app.command(
    epilog="Examples:\n\n  harness bench train\n\n  harness bench train --objective dpo --profile\n\n"
    "  harness bench train --vocabulary 8000 --layers 2 --rounds 5 --json\n\n"
    "  harness bench train --shape qwen2-0.5b --device cuda --batch 2"
)
def train(
    objective: Annotated[str, typer.Option(help="sso (peer: the published pattern), dpo (peer: TRL) or all.")] = "all",
    shape: Annotated[str, typer.Option(help=f"Random weights in the shape of {', '.join(workload.SHAPES)}.")] = "small",
    vocabulary: Annotated[int | None, typer.Option(help="Another vocabulary.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Another hidden size.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Another number of layers.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Queries per step.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps per round, each on other data.")] = 2,
    rounds: Rounds = 3,
    contenders: Annotated[
        str | None, typer.Option(help="Only these, such as ours,ours-flex; ratios need the peer.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    peak_flops: PeakFlops = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also show where the time goes (on the CPU).")] = False,
    as_json: Json = False,
) -> None:
    """Time training steps (forward and backward) of this project and others on the same weights and tokens."""
    if objective not in (*CONTENDERS, "all"):
        raise unknown_name("objective", objective, [*CONTENDERS, "all"])
    _check_positive("--peak-flops", peak_flops)
    shaped = workload.shape_of(shape, vocabulary, hidden, layers)
    chosen = [name for name in CONTENDERS if objective in (name, "all")]
    wanted = {name: _wanted(name, contenders) for name in chosen}
    results = [
        measure(
            workload.Workload(name, shaped, batch, steps, seed, threads or _cores(), device, dtype),
            wanted[name],
            rounds,
            peak_flops,
            profile,
        )
        for name in chosen
    ]
    if as_json:
        print_json({"shape": shape, "batch": batch, "seed": seed, "rounds": rounds, "results": results})
        return
    for result in results:
        _print_result(result)


@app.command(
    epilog="Examples:\n\n  harness bench generate\n\n  harness bench generate --batches 1,64 --rounds 3 --json\n\n"
    "  harness bench generate --model ./my-model --device cuda --new-tokens 256"
)
def generate(
    model: Annotated[str, typer.Option(help="'testbed', a folder or a hub id.")] = "testbed",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32,128",
    new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of a completion.")] = 64,
    rounds: Rounds = 5,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    peak_flops: PeakFlops = None,
    as_json: Json = False,
) -> None:
    """Measure sampled tokens per second: our engine, transformers' generate, and vLLM if it is installed."""
    from harness.perf.generate import measure as measure_generation

    _check_positive("--peak-flops", peak_flops)
    result = measure_generation(
        model, _batch_sizes(batches), new_tokens, rounds, seed, threads or _cores(), device, dtype, peak_flops
    )
    if as_json:
        print_json(result)
        return
    print_rows(
        ["batch", "contender", "tokens/s", "min to max", "FLOPs util. %", "speed ratio"],
        [
            [
                row["batch"],
                name,
                round(each["tokens_per_second"]["median"]),
                f"{each['tokens_per_second']['min']:.0f} to {each['tokens_per_second']['max']:.0f}",
                _rounded(100 * each["flops_utilisation"]),
                _rounded(each["speed_ratio"]),
            ]
            for row in result["results"]
            for name, each in row["contenders"].items()
        ],
        title=f"generation: {model}, up to {new_tokens} new tokens",
    )
    for name, each in result["memory"].items():
        peak, loaded = (readable(_megabytes(each[kind])) for kind in ("peak", "loaded"))
        print(f"{name}: peak {peak} MB, {loaded} MB when loaded")
    machine = result["machine"]
    print(
        f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}, utilisation of "
        f"{result['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )


@app.command(
    "eval",
    epilog="Examples:\n\n  harness bench eval\n\n"
    "  harness bench eval --model ./my-model --benchmark ifeval --limit 100 --new-tokens 512 --batch 32\n\n"
    "  harness bench eval --model ./my-model --benchmark mmlu --sections anatomy,virology --limit 100 --flops",
)
def evaluate(
    model: Annotated[str, typer.Option(help="'testbed', a folder or a hub id.")] = "testbed",
    benchmark: Annotated[
        str | None, typer.Option(help="Whose questions are asked.", show_default="the embedded model's prompts")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Folder with the benchmark's files.")] = DATA,
    limit: Annotated[int, typer.Option(min=1, help="How many questions.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Most answers at once.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 64,
    sections: Annotated[
        str | None,
        typer.Option(help="Only questions of these, such as MMLU's subjects, separated by commas.", show_default="all"),
    ] = None,
    flops: Annotated[bool, typer.Option("--flops", help="Also count FLOPs, in one more round.")] = False,
    rounds: Rounds = 3,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Time a benchmark's questions, answered greedily or, as in MMLU and RewardBench, by log-probabilities: our engine,
    transformers' own generate or forward pass, and lm-eval's HFLM if it is installed."""
    from harness.perf.evaluation import Machine, QuestionSet
    from harness.perf.evaluation import measure as measure_evaluation

    named = tuple(each.strip() for each in sections.split(",")) if sections else ()
    asked = QuestionSet(benchmark, data_dir, limit, new_tokens, named)
    result = measure_evaluation(asked, Machine(model, batch, threads or _cores(), device, dtype), rounds, flops)
    if as_json:
        print_json(result)
        return
    print_rows(
        ["contender", "seconds", "min to max", "speed ratio", "equal answers", "difference", "computed / needed"]
        + ["FLOPs / least"] * flops,
        [
            [
                name,
                _rounded(each["seconds"]["median"]),
                f"{each['seconds']['min']:.3g} to {each['seconds']['max']:.3g}",
                _rounded(each["speed_ratio"]),
                f"{each['equal_answers']} of {each['answers']}",
                _rounded(each["largest_difference"]),
                _rounded(each["computed_to_needed"]),
                *([_rounded(each["flops_to_least"])] * flops),
            ]
            for name, each in result["contenders"].items()
        ],
        title=f"{benchmark or 'embedded prompts'}: {model}, up to {new_tokens} new tokens, {batch} at once",
    )
    print(
        "ratios, equal answers and the largest difference of a log-probability (nats): to transformers; computed / "
        "needed: positions of the model's layers" + ("; FLOPs / least: least reads nothing twice" if flops else "")
    )


@app.command(epilog="Examples:\n\n  harness bench table\n\n  harness bench table --runs 50 --questions 800 --json")
def table(
    runs: Annotated[int, typer.Option(min=1, help="Synthetic stored runs, and methods of one more run.")] = 200,
    questions: Annotated[int, typer.Option(min=2, help="Questions in each of the four suites.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per method.")] = 3,
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Time the table and the leaderboard of many runs, each by a command from a cold start."""
    from harness.perf.table import measure as measure_tables

    result = measure_tables(runs, questions, seeds, rounds)
    if as_json:
        print_json(result)
        return
    print_rows(
        ["command", "seconds", "min to max"],
        [
            [name, _rounded(each["median"]), f"{each['min']:.3g} to {each['max']:.3g}"]
            for name, each in result["commands"].items()
        ],
        title=f"{runs} runs, 4 suites of {questions} questions, seeds: {seeds}",
    )


def _batch_sizes(text: str) -> list[int]:
    sizes = [each.strip() for each in text.split(",")]
    if not all(each.isdecimal() and int(each) for each in sizes):
        raise UserError(f"--batches {text!r} is not a list of batch sizes: give some, such as 1,8,32")
    return [int(each) for each in sizes]


def _wanted(objective: str, contenders: str | None) -> list[str]:
    """Return the contenders of an objective that are named, in their order."""
    known = CONTENDERS[objective]
    if contenders is None:
        return [name for name in known if name != ON_REQUEST]
    named = [each.strip() for each in contenders.split(",")]
    for name in named:
        if name not in known:
            raise unknown_name(f"contender for {objective}", name, known)
    return [name for name in known if name in named]


def _print_result(result: dict[str, Any]) -> None:
    data, machine = result["data"], result["machine"]
    print_rows(
        ["contender", "seconds", "min to max", "tokens/s", "FLOPs util. %", "peak MB", "above loaded MB", "speed ratio"]
        + ["memory ratio"],
        [
            [
                name,
                _rounded(each["seconds"]["median"]),
                f"{each['seconds']['min']:.3g} to {each['seconds']['max']:.3g}",
                round(each["tokens_per_second"]),
                _rounded(100 * each["flops_utilisation"]),
                _megabytes(each["peak_memory_bytes"]),
                _megabytes(each["peak_above_loaded_bytes"]),
                _rounded(each["speed_ratio"]),
                _rounded(each["memory_ratio"]),
            ]
            for name, each in result["contenders"].items()
        ],
        title=f"{result['objective']}: {data['steps']} steps, {data['examples']} queries, {data['tokens']:,} tokens",
    )
    first = next(iter(result["contenders"]))
    for name, difference in result["agreement"].items():
        print(
            f"{name} and {first}: losses differ by at most {difference['loss']:.1e} of their size, "
            f"gradients of a parameter by {difference['gradient']:.1e}"
        )
    print(
        f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}, utilisation of "
        f"{result['peak_flops'] / 1e9:,.0f} GFLOP/s; ratios to {result['peer']}; "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    )
    _print_work(result["contenders"])
    if any("profile" in each for each in result["contenders"].values()):
        _print_profile(result["contenders"])
    print()


def _print_work(contenders: dict[str, Any]) -> None:
    kinds = ("positions", "head_positions", "attended")
    print_rows(
        ["policy pass", "positions in the layers", "positions with logits", "pairs in attention"],
        [[name, *(each["work"][kind] for kind in kinds)] for name, each in contenders.items()],
    )


def _print_profile(contenders: dict[str, Any]) -> None:
    columns = ["phase", "part"]
    cells: dict[tuple[str, str], list[float]] = {}
    for name, each in contenders.items():
        total = sum(sum(parts.values()) for parts in each["profile"].values())
        columns += [f"{name} s", "%"]
        for phase, parts in each["profile"].items():
            for part, took in [*parts.items(), ("all", sum(parts.values()))]:
                cells.setdefault((phase, part), []).extend([round(took, 2), round(100 * took / total, 1)])
    print_rows(columns, [[*key, *values] for key, values in cells.items()], title="profile of one round")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _megabytes(value: int | None) -> int | None:
    return None if value is None else round(value / MEGABYTE)
