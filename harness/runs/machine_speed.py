"""How fast this machine reads, samples and trains with a model: measured for some seconds, then kept in a cache."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from harness.experiment.options import Experiment
from harness.files import store
from harness.methods.base import Lengths
from harness.models import fingerprints
from harness.models.folder import model_folder
from harness.runs.device_speed import Speed
from harness.runs.engine_choice import load_engine
from harness.runs.inputs import model_digests, threads_of, use_threads
from harness.work import FORWARD_FLOPS, TRAIN_FLOPS

SECONDS = 1.5  # that each kind of work is repeated for
LONGEST = 256  # tokens of a prompt or completion that is measured
SEQUENCES = 16  # generated at once, at most
NEW_TOKENS = 32  # of each
TRAINED = 4  # sequences of an update, as in a micro-batch of two pairs
STATES = 16  # bytes per parameter in training: float32 weights, gradients and two moments


def of_machine(experiment: Experiment, lengths: Lengths, parameters: int) -> Speed | None:
    """The speed of this machine; None where its memory does not hold a training of the model.

    Args:
        lengths: of typical sequences; work of these lengths is measured.
    """
    memory = psutil.virtual_memory().total
    if STATES * parameters > memory:
        return None
    file = _cache() / f"{_key(experiment, lengths)}.json"
    if file.exists():
        return Speed(**store.read_json(file))
    print("measuring this machine for some seconds (kept for later calls)", file=sys.stderr)
    train, read, token = _measured(experiment, lengths, parameters)
    speed = Speed("this machine", train, read, token, memory / 2**30)
    store.write_json(file, asdict(speed))
    return speed


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "harness" / "speed"


def _key(experiment: Experiment, lengths: Lengths) -> str:
    return store.digest(
        [
            model_digests(experiment),
            fingerprints.machine(experiment.device),
            threads_of(experiment),
            fingerprints.of_packages("torch", "transformers", "harness"),
            min(experiment.batch_size, SEQUENCES),
            _tokens(lengths),
        ]
    )


def _tokens(lengths: Lengths) -> tuple[int, int]:
    """Tokens of a prompt and of a completion that are measured."""
    prompt, completion = min(LONGEST, ceil(lengths.prompt)), min(LONGEST, ceil(lengths.completion))
    return max(2, prompt), max(2, completion)


def _measured(experiment: Experiment, lengths: Lengths, parameters: int) -> tuple[float, float, float]:
    """FLOP/s of training and of reading, and seconds per generated token."""
    from harness.engines.base import Sampling

    use_threads(experiment)
    engine = load_engine(experiment, model_folder(experiment.model))
    prompt, completion = _tokens(lengths)
    size = engine.local.model.get_input_embeddings().weight.shape[0]
    asked = [_ids(prompt, index, size) for index in range(min(experiment.batch_size, SEQUENCES))]
    sequences = [(_ids(prompt, index, size), _ids(completion, index + 1, size)) for index in range(TRAINED)]
    prompts, completions = map(list, zip(*sequences, strict=True))
    reading = _seconds(lambda: engine.logprobs(prompts, completions))
    read = FORWARD_FLOPS * parameters * sum(map(len, [*prompts, *completions])) / reading
    made: list[Any] = []
    sampling = Sampling(NEW_TOKENS, 1.0, 1.0)
    items = [str(index) for index in range(len(asked))]
    took = _seconds(lambda: made.append(engine.generate(asked, items, sampling)))
    tokens = sum(len(each.token_ids) for each in made[-1])
    token = max(0.0, took - FORWARD_FLOPS * parameters * prompt / read) / tokens
    training = _training_seconds(engine, sequences)
    return TRAIN_FLOPS * parameters * sum(map(len, [*prompts, *completions])) / training, read, token


def _ids(number: int, start: int, vocabulary: int) -> tuple[int, ...]:
    """Token ids of a sequence; sequences with another start share no prefix."""
    return tuple((start + 7 * place) % vocabulary for place in range(number))


def _training_seconds(engine: Any, sequences: list[Any]) -> float:
    """Seconds of a training pass and update on these sequences."""
    import copy

    import torch

    from harness.engines.logprobs import attend_packed, sequence_logprobs
    from harness.engines.packing import pack

    model = copy.deepcopy(engine.local.model).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    packed = pack(sequences).to(engine.local.device)

    def update() -> None:
        with attend_packed(model, engine.reading):
            sequence_logprobs(model, packed, engine.reading).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(update)


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call, after one that warms up: the shortest of those that fit into SECONDS, at least two."""
    work()
    found: list[float] = []
    while len(found) < 2 or sum(found) < SECONDS:
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)
