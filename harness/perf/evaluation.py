"""`harness bench eval`: answers by our engine, by transformers' generate, and by lm-eval's HFLM if it is installed."""

import importlib.util
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.engines.base import Completion, Sampling
from harness.engines.wrapper import TrainableWrapper
from harness.perf.process import Remote
from harness.progress import Advance, progress
from harness.types import TokenIds
from harness.work import of_samples

PEER = "transformers"
OURS = "ours"
CONTENDERS = (PEER, *(["lm-eval"] if importlib.util.find_spec("lm_eval") else []), OURS)


@dataclass(frozen=True)
class QuestionSet:
    """What is asked. benchmark: None asks the embedded model's prompts. limit: how many questions."""

    benchmark: str | None
    data_dir: Path
    limit: int
    new_tokens: int


@dataclass(frozen=True)
class Machine:
    """What answers, and on what."""

    model: str
    batch: int
    threads: int
    device: str
    dtype: str


def measure(asked: QuestionSet, machine: Machine, rounds: int) -> dict[str, Any]:
    """Measure the seconds of greedy answers, in interleaved rounds, and compare the answers.

    Raises:
        UserError: when the model or the questions cannot be used.
    """
    with ExitStack() as stack, progress("bench eval", len(CONTENDERS) * (1 + rounds)) as advance:
        subjects = {}
        for remote in [Remote(name, EvaluationSubject, name, asked, machine) for name in CONTENDERS]:
            advance.note(f"{remote.label}, loading")
            subjects[remote.label] = stack.enter_context(remote)
            advance(1)
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for number in range(1, rounds + 1):
            for name, subject in subjects.items():
                advance.note(f"{name}, round {number} of {rounds}")
                seen[name].append(subject.call("round"))
                advance(1)
    return {
        "asked": asdict(asked) | {"data_dir": str(asked.data_dir)},
        "machine": asdict(machine),
        "rounds": rounds,
        "contenders": {name: figures(measured, seen[PEER]) for name, measured in seen.items()},
    }


def figures(rounds: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a contender's figures over all rounds; answers and counts are those of the first round."""
    seconds = [each["seconds"] for each in rounds]
    median, first, other = statistics.median(seconds), rounds[0], peer[0]
    return {
        "seconds": {"median": median, "min": min(seconds), "max": max(seconds), "rounds": seconds},
        "speed_ratio": statistics.median(each["seconds"] for each in peer) / median,
        "answers": len(first["answers"]),
        "equal_answers": sum(other["answers"][item] == text for item, text in first["answers"].items()),
        "computed": first["computed"],
        "computed_to_needed": first["computed"] / other["needed"],
    }


class EvaluationSubject:
    """One of CONTENDERS, in its own process."""

    def __init__(self, name: str, asked: QuestionSet, machine: Machine) -> None:
        from harness.engines.transformers import TransformersEngine
        from harness.models.folder import MODEL_DIR
        from harness.perf.subject import ready

        device = ready(machine.device, machine.threads)
        path = MODEL_DIR if machine.model == "testbed" else Path(machine.model)
        engine = TransformersEngine.load(path, device=device.type, dtype=machine.dtype, batch_size=machine.batch)
        self.asked, self.engine = asked, {PEER: FixedBatches, "lm-eval": HFLMBatches, OURS: Timed}[name](engine)
        self.engine.generate([engine.encode_chat([{"role": "user", "content": "?"}])], ["warm-up"], Sampling(2))

    def round(self) -> dict[str, Any]:
        """Answer all questions: seconds in `generate`, the answers by item, positions computed, and those needed."""
        self.engine.begin()
        if self.asked.benchmark:
            self._benchmark(self.asked.benchmark)
        else:
            self._embedded()
        return self.engine.record

    def _benchmark(self, name: str) -> None:
        from harness.benchmarks.base import Policy, Settings
        from harness.benchmarks.loading import load_benchmark
        from harness.benchmarks.questions import load_questions

        settings = Settings(temperature=0.0, max_new_tokens=self.asked.new_tokens, limit=self.asked.limit)
        items = load_questions(name, self.asked.data_dir, settings)
        load_benchmark(name).answer(Policy(self.engine), items, settings, None)

    def _embedded(self) -> None:
        from harness.testbed.prompts import prompts

        asked = prompts(self.asked.limit)
        chats = [self.engine.encode_chat(prompt.messages) for prompt in asked]
        self.engine.generate(chats, [prompt.id for prompt in asked], Sampling(self.asked.new_tokens))


class Timed(TrainableWrapper[Any]):
    """An engine whose answers are recorded, with the time that they take."""

    def begin(self) -> None:
        """Start a new record."""
        self.record: dict[str, Any] = {"seconds": 0.0, "answers": {}, "computed": 0, "needed": 0}

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        from harness.perf.subject import synchronize

        if not hasattr(self, "record"):
            self.begin()
        with self._counted():
            synchronize(self.device)
            start = time.perf_counter()
            completions = self._answer(prompts, items, sampling)
            synchronize(self.device)
            self.record["seconds"] += time.perf_counter() - start
        self.record["answers"] |= {item: each.text for item, each in zip(items, completions, strict=True)}
        self.record["needed"] += of_samples(prompts, [each.token_ids for each in completions]).positions
        return completions

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
        return self._engine.generate(prompts, items, sampling)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Inside, the positions of each forward pass are counted."""

        def count(_model: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            self.record["computed"] += (args[0] if args else given["input_ids"]).numel()

        handle = self.model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class FixedBatches(Timed):
    """transformers' generate on batches of prompts, longest first, padded on the left."""

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
        import torch

        answered: dict[int, Completion] = {}
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        pad, stops = self.tokenizer.pad_token_id, list(self._engine.stop_tokens)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = len(prompts[batch[0]])
            rows = [[pad] * (width - len(prompts[number])) + list(prompts[number]) for number in batch]
            mask = [[0] * (width - len(prompts[number])) + [1] * len(prompts[number]) for number in batch]
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=torch.tensor(rows, device=self.device),
                    attention_mask=torch.tensor(mask, device=self.device),
                    max_new_tokens=sampling.max_new_tokens,
                    do_sample=False,
                    eos_token_id=stops,
                    pad_token_id=pad,
                )
            for number, tokens in zip(batch, out[:, width:].tolist(), strict=True):
                end = next((place + 1 for place, token in enumerate(tokens) if token in stops), len(tokens))
                answered[number] = self._engine.completion(tokens[:end])
        return [answered[number] for number in range(len(prompts))]


class HFLMBatches(Timed):
    """lm-eval's HFLM, which gets prompts and gives answers as texts."""

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        harness_model = HFLM(
            pretrained=self.model,
            tokenizer=self.tokenizer,
            batch_size=self.batch_size,
            max_length=self.context_length,
            add_bos_token=False,
        )
        wanted = {"until": [], "max_gen_toks": sampling.max_new_tokens, "do_sample": False}
        requests = [
            Instance("generate_until", {}, (self.tokenizer.decode(prompt), dict(wanted)), number)
            for number, prompt in enumerate(prompts)
        ]
        texts = harness_model.generate_until(requests, disable_tqdm=True)
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        return [Completion(tuple(tokens), text, True) for tokens, text in zip(ids, texts, strict=True)]
