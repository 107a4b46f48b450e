"""The memory that one process of a run needs at most on this machine's CPU, in training and in generation.

On a CPU, activations are kept for the backward pass. Logits of given texts are read block by block and take nothing
worth counting. Weights that generate have the numbers of --dtype; those that are trained are in float32, and so, for an
upper limit, are activations. A file of weights with other numbers than --dtype is in memory while they are converted.
"""

from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from harness.benchmarks.base import BenchmarkSize
from harness.experiment.options import Experiment
from harness.methods.base import Lengths, Stage
from harness.methods.mixtures import is_mixture
from harness.methods.prompts import PromptStream
from harness.models.folder import model_folder, weight_files
from harness.runs.device_speed import FLOAT, GIB, WEIGHT, ModelSizes
from harness.runs.inputs import load_prompts
from harness.stages.plan import SAMPLE, RunPlan, token_counter
from harness.training.examples import sync_of
from harness.types import Prompt, reply_text

BASE = 0.6 * GIB  # Python, torch, transformers, and what the allocator keeps
ADAPTED = 23  # inputs and outputs of a layer's matrices, in units of its width, where the inner width is 4
CONVERTED = 1.5  # a file of at least so many times the bytes of the weights has wider numbers
CHUNK = 4096  # most tokens of prompts that are read at once (`harness.engines.refill.READ`)


def memory_here(
    experiment: Experiment,
    shape: ModelSizes,
    planned: RunPlan,
    lengths: Lengths,
    benchmarks: Iterable[BenchmarkSize],
    answers: Sequence[float],
) -> dict[str, Any]:
    """GiB of one process in training (0 if nothing is trained) and in generation, of the machine, and whether they fit.

    Args:
        lengths: of the experiment's prompts.
        benchmarks, answers: what benchmarks ask, and the mean tokens of an answer to each.
    """
    counted, width = token_counts(experiment), WEIGHT if experiment.dtype == "bfloat16" else FLOAT
    training = max(
        (
            training_bytes(
                shape, width, stage, tokens_at_once(stage, plan["examples"], plan["trained_tokens"], counted)
            )
            for name, method in planned["methods"].items()
            for stage, plan in zip(experiment.stages(name), method["stages"], strict=True)
        ),
        default=0.0,
    )
    ours = [(experiment.batch_size, lengths.prompt + lengths.system + lengths.completion)] if training else []
    asked = [
        (min(experiment.batch_size, size.questions), size.prompt + answer)
        for size, answer in zip(benchmarks, answers, strict=True)
        if answer
    ]
    generating = max((generating_bytes(shape, width, *each) for each in (*ours, *asked)), default=0.0)
    if generating and width == FLOAT and _packs():
        generating += FLOAT * shape.parameters
    generating = max(generating, loading_bytes(shape, width, largest_file(model_folder(experiment.model))))
    here = psutil.virtual_memory().total
    return {
        "training_gib": training / GIB,
        "generating_gib": generating / GIB,
        "machine_gib": here / GIB,
        "fits": max(training, generating) <= here,
    }


def _packs() -> bool:
    """Whether weights are held twice during generation (`harness.engines.linear.packed_weights`)."""
    from harness.engines.linear import onednn_is_faster

    return onednn_is_faster()


def loading_bytes(shape: ModelSizes, width: int, file: int) -> float:
    """Bytes of a process that loads weights: the weights, and the file that they are converted from.

    Args:
        width: bytes per number of the weights. file: bytes of the largest file of weights.
    """
    weights = width * shape.parameters
    return BASE + weights + (file if file > CONVERTED * weights else 0)


def largest_file(folder: Path) -> int:
    """Bytes of the largest file of weights in a folder; 0 where none is there."""
    return max((file.stat().st_size for file in weight_files(folder) if file.is_file()), default=0)


def training_bytes(shape: ModelSizes, width: int, stage: Stage, examples: Sequence[float]) -> float:
    """Bytes of a process that trains: the start model; a copy with gradients and two moments, or with adapters that
    have these; a reference that follows the policy; and what the backward pass needs of the examples.

    Args:
        width: bytes per number of the start model. examples: tokens of each example of a micro-batch.
    """
    options = stage.training
    trained = options.lora_rank * shape.layers * ADAPTED * shape.hidden if options.lora_rank else shape.parameters
    states = FLOAT * 4 * trained + (width * shape.parameters if options.lora_rank else 0)
    cast = width * shape.parameters if width < FLOAT and not options.lora_rank else 0  # trained weights, by autocast
    second = FLOAT * shape.parameters if sync_of(stage.objective) else 0
    return BASE + width * shape.parameters + states + cast + second + kept_bytes(shape, examples, stage)


def kept_bytes(shape: ModelSizes, examples: Sequence[float], stage: Stage) -> float:
    """Bytes of activations that the backward pass needs, in float32.

    A layer of a Llama keeps of each token nine vectors of the model's width (the residual stream twice, each norm
    before and after its weight, queries, attention before and after it is put in order), keys and values, and four of
    the inner width (gate, its activation, up, their product); and of each example, the mask of its attention.
    """
    tokens = sum(examples)
    keys = shape.kv_bytes / WEIGHT / shape.layers
    layer = FLOAT * (9 * shape.hidden + keys + 4 * shape.inner) * tokens + FLOAT * sum(each**2 for each in examples)
    if stage.training.gradient_checkpointing:
        return layer + FLOAT * shape.layers * shape.hidden * tokens
    return shape.layers * layer


def generating_bytes(shape: ModelSizes, width: int, sequences: int, tokens: float) -> float:
    """Bytes of a process that generates sequences of these mean tokens at once: the weights, keys and values, those of
    a prefix that is kept, and a layer's activations of the prompts that are read together. width: bytes per number."""
    cached = (sequences + 1) * tokens * shape.kv_bytes / WEIGHT
    read = min(CHUNK, sequences * tokens) * (4 * shape.hidden + 3 * shape.inner)
    return BASE + width * (shape.parameters + cached + read)


def tokens_at_once(stage: Stage, examples: int, trained: int, counted: Sequence[int]) -> list[float]:
    """Tokens of each example of the largest micro-batch: the longest that so many examples lead one to expect, and
    others of mean length.

    Args:
        examples, trained: how many are planned, and their tokens in all.
        counted: tokens of some labelled rows, for a stage that draws them.
    """
    micro = min(stage.training.micro_batch_size, max(1, examples))
    mean = longest = trained / max(1, examples)
    if stage.labelled and counted:
        mean = sum(counted) / len(counted)
        longest = expected_longest(counted, examples)
    return [longest] + [mean] * (micro - 1)


def expected_longest(counted: Sequence[int], number: int) -> float:
    """The length that one of `number` draws is expected to exceed or reach: the quantile n / (n + 1).

    >>> expected_longest([10, 20, 30, 40], 3)
    30
    """
    place = ceil(len(counted) * number / (number + 1)) - 1
    return sorted(counted)[place]


def token_counts(experiment: Experiment) -> list[int]:
    """Tokens of some labelled rows, each with its prompt once and all its replies; empty where nothing needs them.

    Raises:
        UserError: when the model's tokenizer or chat template cannot be used.
    """
    if not any(stage.labelled for name in experiment.arms() for stage in experiment.stages(name)):
        return []
    rows = load_prompts(experiment)[1]
    drawn: Sequence[Prompt] = PromptStream(rows, 0).take(SAMPLE) if is_mixture(rows) else rows[:SAMPLE]
    count, count_text = token_counter(model_folder(experiment.model), experiment.model, experiment.day)
    return [count(row.chat) + sum(count_text(reply_text(reply)) for reply in row.replies) for row in drawn]
