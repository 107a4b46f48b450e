"""`harness bench generate`: our engine beside transformers' generate and, if it is installed, vLLM."""

import importlib.util
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.engines.base import Sampling
from harness.perf.process import Remote, memory, peak_memory
from harness.progress import progress

PEER = "transformers"
CONTENDERS = (PEER, "ours", *(["vllm"] if importlib.util.find_spec("vllm") else []))
LEAST_PROMPTS = 16
BATCHES_A_ROUND = 4
GPU_MEMORY = 0.8  # share that vLLM takes


def measure(
    model: str,
    batches: Sequence[int],
    new_tokens: int,
    rounds: int,
    seed: int,
    threads: int,
    device: str,
    dtype: str,
    peak_flops: float | None = None,
) -> dict[str, Any]:
    """Measure tokens per second at each batch size, in interleaved rounds.

    Raises:
        UserError: when the model cannot be used.
    """
    total = len(CONTENDERS) * (1 + len(batches) * (rounds + 1))
    with ExitStack() as stack, progress("bench generate", total) as advance:
        subjects = {}
        arguments = (model, new_tokens, seed, threads, device, dtype)
        for remote in [Remote(name, _subject, name, *arguments) for name in CONTENDERS]:
            advance.note(f"{remote.label}, loading")
            subjects[remote.label] = stack.enter_context(remote)
            advance(1)
        machine = subjects[PEER].call("machine")
        peak_flops = peak_flops or machine["matmul_flops"]
        results = []
        for batch in batches:
            seen: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
            for number in range(rounds + 1):  # the first is a warm-up
                for name, subject in subjects.items():
                    advance.note(f"batch {batch}, {name}, " + (f"round {number} of {rounds}" if number else "warm-up"))
                    seen[name].append(subject.call("round", batch))
                    advance(1)
            medians = {name: statistics.median(map(_rate, measured[1:])) for name, measured in seen.items()}
            results.append(
                {
                    "batch": batch,
                    "prompts": _prompts(batch),
                    "contenders": {
                        name: _figures(measured[1:], medians[name], medians[PEER], peak_flops)
                        for name, measured in seen.items()
                    },
                }
            )
        memories = {name: subject.call("memory") for name, subject in subjects.items()}
    return {
        "model": model,
        "machine": machine | {"threads": threads},
        "peak_flops": peak_flops,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "seed": seed,
        "memory": memories,
        "results": results,
    }


def _prompts(batch: int) -> int:
    return max(LEAST_PROMPTS, BATCHES_A_ROUND * batch)


def _rate(round_: dict[str, float]) -> float:
    return round_["generated_tokens"] / round_["seconds"]


def _figures(rounds: list[dict[str, float]], median: float, peer: float, peak_flops: float) -> dict[str, Any]:
    rates = [_rate(measured) for measured in rounds]
    return {
        "tokens_per_second": {"median": median, "min": min(rates), "max": max(rates), "rounds": rates},
        "generated_tokens": [measured["generated_tokens"] for measured in rounds],
        "flops_utilisation": statistics.median(measured["flops"] / measured["seconds"] for measured in rounds)
        / peak_flops,
        "speed_ratio": median / peer,
    }


def _subject(*arguments: Any) -> Any:
    return GenerationSubject(*arguments)


class GenerationSubject:
    """One of CONTENDERS, in its own process."""

    def __init__(
        self, name: str, model: str, new_tokens: int, seed: int, threads: int, device: str, dtype: str
    ) -> None:
        from harness.engines.transformers import TransformersEngine
        from harness.models.folder import MODEL_DIR
        from harness.perf.subject import ready
        from harness.testbed.prompts import prompts

        self.name, self.new_tokens, self.seed = name, new_tokens, seed
        self.device = ready(device, threads)
        self.path = MODEL_DIR if model == "testbed" else Path(model)
        self.vllm: Any = None
        self.engine = TransformersEngine.load(self.path, device=self.device.type, dtype=dtype)
        self.chats = [self.engine.encode_chat(prompt.messages) for prompt in prompts()]
        self.rounds = 0
        self.loaded = memory(self.device.type)

    def machine(self) -> dict[str, Any]:
        from harness.perf.subject import describe

        return describe(self.device, self.engine.model.dtype)

    def memory(self) -> dict[str, int | None]:
        return {"loaded": self.loaded, "peak": peak_memory(self.device.type)}

    def round(self, batch: int) -> dict[str, float]:
        """Answer `_prompts(batch)` prompts, with new noise each time.

        `flops`: two per weight and token, read or generated; attention is ignored.
        """
        from harness.perf.subject import synchronize

        chats = (self.chats * (1 + _prompts(batch) // len(self.chats)))[: _prompts(batch)]
        self.rounds += 1
        run = {PEER: self._theirs, "ours": self._ours, "vllm": self._vllm}[self.name]
        if self.name == "vllm":
            self._start_vllm(batch)
        synchronize(self.device)
        start = time.perf_counter()
        generated = run(chats, batch, self.seed + self.rounds)
        synchronize(self.device)
        seconds = time.perf_counter() - start
        flops = 2 * self.engine.parameters * (sum(map(len, chats)) + generated)
        return {"seconds": seconds, "generated_tokens": generated, "flops": flops}

    def _ours(self, chats: list, batch: int, seed: int) -> int:
        self.engine.batch_size = batch
        return self._generated(self.engine, chats, seed)

    def _vllm(self, chats: list, batch: int, seed: int) -> int:
        return self._generated(self.vllm, chats, seed)

    def _start_vllm(self, batch: int) -> None:
        """Start vLLM with `batch` concurrent sequences; when one ends, the next begins."""
        from harness.engines.vllm import InProcess, VLLMEngine

        if self.vllm is None or self.vllm.backend.batch_size != batch:
            if self.vllm:
                self.vllm.rest()
            backend = InProcess(batch, tensor_parallel=1, memory=GPU_MEMORY, trust_remote_code=False)
            self.vllm = VLLMEngine(self.engine, self.path, backend)
            backend.serve(self.vllm)

    def _generated(self, engine: Any, chats: list, seed: int) -> int:
        """Return how many tokens the answers to the chats have."""
        items = [str(index) for index in range(len(chats))]
        completions = engine.generate(chats, items, Sampling(self.new_tokens, temperature=1.0, seed=seed))
        return sum(len(completion.token_ids) for completion in completions)

    def _theirs(self, chats: list, batch: int, seed: int) -> int:
        import torch

        torch.manual_seed(seed)
        engine, total = self.engine, 0
        pad, stops = engine.tokenizer.pad_token_id, torch.tensor(engine.stop_tokens, device=self.device)
        for start in range(0, len(chats), batch):
            rows = chats[start : start + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=self.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
            with torch.inference_mode():
                out = engine.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=self.new_tokens,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    eos_token_id=list(engine.stop_tokens),
                    pad_token_id=pad,
                )[:, width:]
            ended = torch.isin(out, stops).long().cumsum(1)
            total += int((ended - torch.isin(out, stops).long() == 0).sum())  # up to and including the first stop token
        return total
