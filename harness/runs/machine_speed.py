"""How fast this machine reads, samples and trains with a model, and how long the model's answers are: measured for some
seconds, then kept in a cache."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from harness.engines.base import Sampling
from harness.experiment.options import Experiment
from harness.files import sources, store
from harness.methods.base import Lengths
from harness.models import fingerprints
from harness.models.folder import model_folder
from harness.runs import answer_lengths
from harness.runs.answer_lengths import Asked, MeanLengths
from harness.runs.device_speed import Speed
from harness.runs.engine_choice import load_engine, threads_of, use_threads
from harness.runs.inputs import model_digests
from harness.types import TokenIds
from harness.work import FORWARD_FLOPS, TRAIN_FLOPS

SECONDS = 1.0  # that each kind of work is repeated for
LONGEST = 256  # tokens of a prompt or completion that is measured
SEQUENCES = 16  # generated at once, at most
NEW_TOKENS = 8  # of each
TRAINED = 2  # sequences of an update, as in a micro-batch of one pair
MEASURED = sources.Roots(("harness.engines.transformers", "harness.runs.answer_lengths"))  # the code that is timed
STATES = 16  # bytes per parameter in training: float32 weights, gradients and two moments


@dataclass(frozen=True)
class Measured:
    """What was measured on this machine."""

    speed: Speed
    lengths: MeanLengths


def of_machine(experiment: Experiment, lengths: Lengths, parameters: int) -> Measured | None:
    """What was measured on this machine; None where its memory does not hold a training of the model.

    Args:
        lengths: of typical sequences; work of these lengths is measured.
    """
    memory = psutil.virtual_memory().total
    if STATES * parameters > memory:
        return None
    asked = answer_lengths.asked_of(experiment)
    file = _cache() / f"{_key(experiment, lengths, asked)}.json"
    if file.exists():
        kept = store.read_json(file)
        return Measured(Speed(**kept["speed"]), MeanLengths(**kept["lengths"]))
    print("measuring this machine for some seconds (kept for later calls)", file=sys.stderr)
    found = _measured(experiment, lengths, parameters, memory / 2**30, asked)
    store.write_json(file, asdict(found))
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "harness" / "speed"


def _key(experiment: Experiment, lengths: Lengths, asked: Asked) -> str:
    return store.digest(
        [
            model_digests(experiment),
            fingerprints.machine(experiment.device),
            experiment.dtype,
            threads_of(experiment),
            fingerprints.of_packages("torch", "transformers"),
            sources.digest(MEASURED),
            min(experiment.batch_size, SEQUENCES),
            _tokens(lengths),
            asked.digest,
            [experiment.system_prompt, experiment.thinking, experiment.thought_marks],
            [experiment.temperature, experiment.top_p],
        ]
    )


def _tokens(lengths: Lengths) -> tuple[int, int]:
    """Tokens of a prompt and of a completion that are measured."""
    prompt, completion = min(LONGEST, ceil(lengths.prompt)), min(LONGEST, ceil(lengths.completion))
    return max(2, prompt), max(2, completion)


def _measured(experiment: Experiment, lengths: Lengths, parameters: int, memory: float, asked: Asked) -> Measured:
    use_threads(experiment)
    engine = load_engine(experiment, model_folder(experiment.model))
    prompt, completion = _tokens(lengths)
    size = engine.local.model.get_input_embeddings().weight.shape[0]
    sequences = [(_ids(prompt, index, size), _ids(completion, index + 1, size)) for index in range(TRAINED)]
    prompts, completions = map(list, zip(*sequences, strict=True))
    work = parameters * sum(map(len, [*prompts, *completions]))
    engine.logprobs(prompts[:1], [(0,)])  # the first calls choose how this model is read, and how it generates
    engine.generate([(0,)], ["0"], Sampling(2))
    read = FORWARD_FLOPS * work / _seconds(lambda: engine.logprobs(prompts, completions))
    context = _ids(min(LONGEST, prompt + completion // 2), 0, size)
    one, many = (_generation(engine, context, rows) for rows in (1, min(experiment.batch_size, SEQUENCES)))
    step, token = _pass_and_token(one, many)
    answers = answer_lengths.measured(experiment, engine, asked, lambda rows: step + rows * token)
    train = TRAIN_FLOPS * work / _training_seconds(engine, sequences)
    return Measured(Speed("this machine", train, read, token, memory, step), answers)


def _generation(engine: Any, prompt: TokenIds, rows: int) -> tuple[float, int, int]:
    """(seconds, passes, tokens) of completions of one prompt, without the pass that reads it."""
    made: list[Any] = []
    items = [str(row) for row in range(rows)]

    def generate(most: int) -> float:
        return _seconds(lambda: made.append(engine.generate([prompt] * rows, items, Sampling(most, 1.0, 1.0))))

    first, took = generate(1), generate(1 + NEW_TOKENS)
    more = [len(each.token_ids) - 1 for each in made[-1]]
    return max(0.0, took - first), max(1, *more), max(rows, sum(more))


def _pass_and_token(one: tuple[float, int, int], many: tuple[float, int, int]) -> tuple[float, float]:
    """Seconds of a pass, and of each token in addition, from the (seconds, passes, tokens) of one and of many
    completions at once."""
    alone = one[0] / one[1]
    seconds, passes, tokens = many
    token = min(alone, max(0.0, (seconds - passes * alone) / (tokens - passes))) if tokens > passes else 0.0
    return alone - token, token


def _ids(number: int, start: int, vocabulary: int) -> tuple[int, ...]:
    """Token ids of a sequence; sequences with another start share no prefix."""
    return tuple((start + 7 * place) % vocabulary for place in range(number))


def _training_seconds(engine: Any, sequences: list[Any]) -> float:
    """Seconds of a training pass and update on these sequences."""
    import copy

    import torch

    from harness.engines.logprobs import attend_packed, sequence_logprobs
    from harness.engines.packing import pack

    device, dtype = engine.local.device, engine.local.model.dtype
    model = copy.deepcopy(engine.local.model).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    packed = pack(sequences).to(device)

    def update() -> None:
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
        with autocast, attend_packed(model, engine.reading):
            sequence_logprobs(model, packed, engine.reading).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(update)


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call: the shortest of those that fit into SECONDS, at least one. (A first call that takes as long
    as that is not much slower than others.)"""
    found: list[float] = []
    while sum(found) < SECONDS:
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)
