"""What an experiment will take: GPU hours and memory, calls to the judge and their price, and disk.

Estimated from the plan (tokens by role) and the speed of a device, either from the data sheet of a GPU with assumed
utilisation, or as measured in a finished run. Training takes 6 N FLOPs per token and reading 2 N, both limited by
arithmetic; generating a token also has to read the weights and the key-value cache, once for all sequences of a batch.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.base import BenchmarkSize
from harness.benchmarks.loading import benchmarks_of
from harness.endpoints.limits import known_prices, parse_price
from harness.errors import UserError
from harness.experiment import presets
from harness.experiment.options import Experiment
from harness.methods.base import Lengths
from harness.methods.mixtures import passes as epochs
from harness.models import fingerprints
from harness.models.folder import TESTBED, NoModel, base_folder, model_folder, text_config
from harness.models.weights import parameter_count
from harness.runs.answer_lengths import MeanLengths, finishing, limited, passes
from harness.runs.device_speed import FLOAT, GIB, WEIGHT, ModelSizes, Speed, measured, of_gpu
from harness.runs.inputs import load_prompts
from harness.runs.machine_memory import ADAPTED, memory_here
from harness.stages.plan import DEFAULT_COMPLETION, RunPlan, cost_of, measure_lengths, plan
from harness.work import Cost, Nominal

if TYPE_CHECKING:
    from harness.runs.machine_speed import Measured

TRAINED = 16  # bytes per parameter in training: float32 weights, gradients and two moments
MERGED = 4  # bytes per parameter while adapters are merged
MORE = (2, 4, 8, 16, 32, 64)  # numbers of GPUs to suggest
RANK = 16  # of adapters to suggest
STATE = 12  # bytes per parameter of a training state on disk: weights and two moments
KEPT_TOKEN = 34  # bytes of a layer's activations per token and unit of width (Korthikanti et al. 2022, eq. 2)
PROMPT, SYSTEM = 160.0, 60.0  # tokens, assumed where the model is not on this machine
DRAWS = (0.8, 0.18, 0.02)  # shares of a stage's queries that are sampled together (`harness.stages.collect`)
TEXT = 5  # bytes per token of stored answers


def cost(experiment: Experiment, gpu: str, gpus: int, calibrate: Path | None = None) -> dict[str, Any]:
    """The plan of `harness.stages.plan.estimate` and, as "cost", what it takes on a number of GPUs.

    "cost" is {"speed", "gpus", "hours" (of one device, by role), "gpu_hours", "days", "here", "memory", "judge",
    "disk", "answers", "completions"}, where "here" is {"speed", "hours", "gpu_hours", "days", "memory"} of this
    machine, as measured, or None; see docs/presets.md.

    Args:
        calibrate: a finished run on this device, whose speed is used instead of that of a GPU.

    Raises:
        UserError: when the size of the model or the GPU is unknown, or the budget does not pay for one update.
    """
    shape, lengths, planned = shape_of(experiment.model), _lengths(experiment), planned_run(experiment)
    length = lengths(False)
    found = None if calibrate else _here(experiment, shape, length)
    here = found and found.speed
    known = found.lengths if found else MeanLengths({}, None)
    expected = _expected(experiment, planned, known)
    speed = (
        measured(calibrate)
        if calibrate
        else of_gpu(gpu, shape, experiment.batch_size, length.prompt + length.system + length.completion / 2)
    )
    methods = [name for name, method in planned["methods"].items() if method["stages"]]
    stages = sum(len(method["stages"]) for method in planned["methods"].values())
    models, made = _scored_models(experiment, planned), experiment.seeds * _tokens(expected, "generate")
    sizes = _sizes(experiment, known)
    kept = experiment.seeds * (stages + len(experiment.fractions) * len(methods))
    answers = {name: limited(size.answer, experiment.answer_tokens) for name, size in sizes.items()}
    scored = sum(size.questions * size.turns * (size.prompt + answers[name]) for name, size in sizes.items())
    return planned | {
        "cost": {
            "speed": vars(speed),
            "gpus": gpus,
            **_time(experiment, expected, known, shape, speed, gpus),
            "here": here
            and {
                "speed": vars(here),
                **_time(experiment, expected, known, shape, here, 1),
                "memory": memory_here(
                    experiment, shape, planned, length, sizes.values(), [answers[name] for name in sizes]
                )
                if fingerprints.of_device(experiment.device).startswith("cpu")
                else None,
            },
            "answers": {
                name: {"tokens": tokens, "measured": name in known.answers}
                for name, tokens in answers.items()
                if tokens
            },
            "completions": _completions(experiment, known),
            "memory": _memory(experiment, shape, gpus, length, methods, speed.memory),
            "judge": _judge(experiment, models),
            "disk": {
                "checkpoints_gib": kept * FLOAT * shape.parameters / GIB,
                "state_gib": STATE * shape.parameters / GIB if stages else 0.0,
                "texts_gib": TEXT * (made + models * scored) / GIB,
            },
        }
    }


def _scored_models(experiment: Experiment, planned: RunPlan) -> int:
    """How many models answer the benchmarks: each method's with each seed, and its checkpoints along the way; fewer
    where a method has no policy yet at a fraction."""
    trained = sum(bool(method["stages"]) for method in planned["methods"].values())
    return experiment.seeds * (len(planned["methods"]) + len(experiment.fractions) * trained)


def _here(experiment: Experiment, shape: ModelSizes, lengths: Lengths) -> "Measured | None":
    """What was measured on this machine; None where the model is not on it, or its memory does not hold a training."""
    from harness.runs.machine_speed import of_machine

    try:
        model_folder(experiment.model)
    except NoModel:
        return None
    return of_machine(experiment, lengths, shape.parameters)


def _tokens(planned: RunPlan, kind: str) -> int:
    """The tokens of all stages for one seed: generate (read and sampled), sampled, reference or trained."""
    return sum(stage[f"{kind}_tokens"] for method in planned["methods"].values() for stage in method["stages"])


def _expected(experiment: Experiment, planned: RunPlan, known: MeanLengths) -> RunPlan:
    """The plan with sampled completions as long as those that were measured, of which some do not end: a run learns it
    along the way."""
    if known.completion is None:
        return planned
    mean, most, lengths = known.completion, experiment.new_tokens, _lengths(experiment)
    sampled = replace(lengths(False), completion=limited(mean, most), finished=finishing(mean, most))
    try:
        return planned_run(experiment, lambda labelled: lengths(True) if labelled else sampled)
    except UserError:  # the budget then pays for no update
        return planned


def _completions(experiment: Experiment, known: MeanLengths) -> dict[str, Any] | None:
    """Mean tokens of completions of training prompts, and the share of those that end; None if it was not measured."""
    if known.completion is None:
        return None
    mean, most = known.completion, experiment.new_tokens
    return {"tokens": limited(mean, most), "finished": finishing(mean, most)}


def _passes_of(experiment: Experiment, planned: RunPlan, known: MeanLengths) -> float:
    """In how many passes all stages generate for one seed."""
    most = experiment.new_tokens
    planned_length = _lengths(experiment)(False).completion
    mean = known.completion or planned_length
    length = limited(mean, most) if known.completion else planned_length
    return sum(
        passes(share * stage["sampled_tokens"] / length, mean, most, experiment.batch_size)
        for method in planned["methods"].values()
        for stage in method["stages"]
        for share in DRAWS
    )


def _time(
    experiment: Experiment, planned: RunPlan, known: MeanLengths, shape: ModelSizes, speed: Speed, devices: int
) -> dict[str, Any]:
    """Hours of one device, by role; of all together; and days on a number of devices."""
    made, sampled, referred, trained = (
        experiment.seeds * _tokens(planned, kind) for kind in ("generate", "sampled", "reference", "trained")
    )
    seconds = {
        "generate": speed.seconds(
            shape.parameters,
            read=made - sampled,
            sampled=sampled,
            passes=experiment.seeds * _passes_of(experiment, planned, known),
        ),
        "reference": speed.seconds(shape.parameters, read=referred),
        "train": speed.seconds(shape.parameters, trained=trained),
    }
    tuning = planned["tuning"]["flops"] / (planned["flops"] or 1.0) if planned["tuning"] else 0.0
    seconds["tuning"] = sum(seconds.values()) * tuning  # trials are like these runs
    seconds["score"] = _scored_models(experiment, planned) * _scoring(experiment, known, shape, speed)
    hours = {role: value / 3600 for role, value in seconds.items()}
    return {"hours": hours, "gpu_hours": sum(hours.values()), "days": sum(hours.values()) / 24 / devices}


def planned_run(experiment: Experiment, lengths: Callable[[bool], Lengths] | None = None) -> RunPlan:
    """The plan of `harness.stages.plan.estimate`, also for a model that the presets name and that is not here.

    Args:
        lengths: in place of those that a run plans with.

    Raises:
        UserError: when the size of the model is unknown, or the budget does not pay for one update.
    """

    def count(adapters: Any) -> Cost:
        return _model_cost(experiment, adapters)

    parameters = shape_of(experiment.model).parameters
    return plan(experiment, parameters, lengths or _lengths(experiment), count, _epochs(experiment))


@cache
def shape_of(model: str) -> ModelSizes:
    """The sizes of a model on this machine, or of one that the presets name.

    Raises:
        UserError: for any other model.
    """
    known = presets.numbers(presets.SHAPES)
    try:
        folder = model_folder(model)
    except NoModel as error:
        if model not in known:
            raise UserError(f"{error}; without it, sizes are known for {', '.join(known)}") from None
        sizes = known[model]
        return ModelSizes(sizes["parameters"], sizes["layers"], sizes["hidden"], sizes["inner"], _kv_bytes(**sizes))
    folder = base_folder(folder) or folder
    config = text_config(folder)
    try:
        layers, hidden, heads = (config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
        kv_heads, head_dim = config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads
    except (KeyError, TypeError):
        raise UserError(
            f"{folder / 'config.json'} does not say how large the model is (hidden_size, num_hidden_layers ...)"
        ) from None
    inner = config.get("intermediate_size") or 4 * hidden
    return ModelSizes(parameter_count(folder), layers, hidden, inner, _kv_bytes(layers, kv_heads, head_dim))


def _model_cost(experiment: Experiment, adapters: Any) -> Cost:
    """`harness.stages.plan.cost_of`, also for a model that the presets name: its layers are like Llama's."""
    known = presets.numbers(presets.SHAPES)
    try:
        return cost_of(experiment, adapters)
    except NoModel:
        sizes = known[experiment.model]
    if experiment.ledger == "nominal":
        return Nominal(sizes["parameters"])
    from transformers import LlamaConfig

    from harness.engines import counting

    config = LlamaConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
    )
    return counting.of_config(config, adapters)


def _kv_bytes(layers: int, kv_heads: int, head_dim: int, **_sizes: int) -> int:
    return 2 * WEIGHT * layers * kv_heads * head_dim


def _lengths(experiment: Experiment) -> Callable[[bool], Lengths]:
    """Lengths of prompts, or of labelled pairs: counted if the model's tokenizer is on this machine, else assumed."""
    try:
        model_folder(experiment.model)
    except UserError:
        assumed = Lengths(
            PROMPT, SYSTEM, float(experiment.completion_tokens or min(DEFAULT_COMPLETION, experiment.new_tokens))
        )
        return lambda labelled: assumed
    sources = load_prompts(experiment)
    return cache(lambda labelled: measure_lengths(experiment, sources[labelled]))


def _epochs(experiment: Experiment) -> Callable[[bool, int], float] | None:
    """Counts passes over the prompts or the pairs (`harness.stages.plan.plan`); None where the model is not on this
    machine."""
    try:
        model_folder(experiment.model)
    except NoModel:
        return None
    sources = load_prompts(experiment)
    return lambda labelled, number: epochs(sources[labelled], number)


def _sizes(experiment: Experiment, known: MeanLengths) -> dict[str, BenchmarkSize]:
    """What the benchmarks ask, those whose size is known, with the measured lengths of answers without a limit."""
    is_testbed = experiment.data_dir == TESTBED
    found: dict[str, BenchmarkSize] = {}
    for name, benchmark in benchmarks_of(experiment).items():
        if size := benchmark.testbed_size if is_testbed else benchmark.size:
            questions = min(size.questions, experiment.limit or size.questions)
            found[name] = replace(size, questions=questions, answer=known.answers.get(name, size.answer))
    return found


def _scoring(experiment: Experiment, known: MeanLengths, shape: ModelSizes, speed: Speed) -> float:
    """Seconds for the answers of one model."""
    seconds = 0.0
    for size in _sizes(experiment, known).values():
        asked = size.questions * size.turns
        begun = size.shared if size.answer else 0
        read = asked * (size.prompt - begun) * size.reads + begun
        made = size.turns * passes(size.questions, size.answer, experiment.answer_tokens, experiment.batch_size)
        sampled = asked * limited(size.answer, experiment.answer_tokens)
        seconds += speed.seconds(shape.parameters, read=read, sampled=sampled, passes=made)
    return seconds


def _memory(
    experiment: Experiment, shape: ModelSizes, gpus: int, lengths: Lengths, methods: list[str], limit: float | None
) -> dict[str, Any]:
    """GiB on each GPU in training (states divided over all, as FSDP does) and in generation, and what would fit
    ("remedies") where that is more than the limit."""
    longest = lengths.prompt + lengths.system + experiment.new_tokens
    options = [experiment.method_options(name) for name in methods]
    micro = max((each.micro_batch_size for each in options), default=0)
    rank = min((each.lora_rank for each in options), default=0)  # 0 if any method trains all weights

    def training(gpus: int, rank: int, micro: int) -> float:
        if not methods:
            return 0.0
        sequence = micro * 2 * longest * shape.hidden * WEIGHT  # two completions per example
        activations = shape.layers * sequence + KEPT_TOKEN / WEIGHT * sequence  # checkpoints, and one layer's own
        return (WEIGHT * shape.parameters + _states(shape, gpus, rank, activations)) / GIB

    cached = experiment.batch_size * longest * shape.kv_bytes
    needed = training(gpus, rank, micro)
    fits = None if limit is None else max(needed, WEIGHT * shape.parameters / GIB) <= limit
    adapters = f"adapters (--set METHOD.lora_rank={RANK})"
    ways = [
        [("--set METHOD.micro_batch_size=1", training(gpus, rank, 1))],
        [
            (adapters, training(gpus, max(rank, RANK), micro)),
            (f"{adapters} with METHOD.micro_batch_size=1", training(gpus, max(rank, RANK), 1)),
        ],
        [(f"{more} GPUs (--gpus {more})", training(more, rank, micro)) for more in MORE if more > gpus],
    ]
    found = [next(((way, gib) for way, gib in each if limit and gib <= limit), None) for each in ways]
    return {
        "training_gib": needed,
        "generating_gib": (WEIGHT * shape.parameters + cached) / GIB,
        "fits": fits,
        "remedies": dict(filter(None, found)) if fits is False else {},
    }


def _states(shape: ModelSizes, gpus: int, rank: int, activations: float) -> float:
    """Bytes of training states on each GPU. Adapters are added to a copy of the weights, and merged in float32."""
    if not rank:
        return TRAINED * shape.parameters / gpus + activations
    adapters = rank * shape.layers * ADAPTED * shape.hidden
    return max(WEIGHT * shape.parameters + TRAINED * adapters + activations, MERGED * shape.parameters)


def _judge(experiment: Experiment, models: int) -> dict[str, Any]:
    """Calls, tokens and USD of judging, with the date of the price list; None where the price is unknown."""
    price = known_prices().get(experiment.judge_model or "")
    if experiment.judge_price:
        price = parse_price(experiment.judge_price)
    calls = prompts = replies = 0
    asks = experiment.judge_model or experiment.judge_engine or experiment.data_dir != TESTBED
    for size in _sizes(experiment, MeanLengths({}, None)).values() if asks else ():
        if size.judge_prompt:
            asked = models * size.questions * size.turns * (2 if experiment.both_orders else 1)
            calls += asked
            prompts += asked * size.judge_prompt
            replies += asked * size.judge_reply
    usd = None if price is None else price.cost(prompts, replies)
    tokens = {"prompt_tokens": prompts, "reply_tokens": replies}
    return {"calls": calls, **tokens, "usd": usd, "prices": price.date if price else None}
