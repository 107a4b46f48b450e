"""Completions and log-probabilities by vLLM; training, tokens and templates come from the transformers engine."""

import gc
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.loading import check_lengths, load_errors
from harness.engines.memory import free
from harness.engines.sampling import item_keys
from harness.engines.transformers import BATCHES, TransformersEngine
from harness.engines.wrapper import TrainableWrapper
from harness.errors import UserError
from harness.models.folder import base_folder
from harness.progress import Advance
from harness.types import TokenIds
from harness.work import of_sequences

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {  # for vLLM, unless the user has set it
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: it starts sooner, and its memory comes back
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_TOKENS = 4096  # tokens read at once
SEEDS = 2**31  # torch's generators take more, NumPy's do not


@dataclass(frozen=True)
class Wish:
    """A completion to make. seed: None for a greedy one."""

    prompt: TokenIds
    tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop_tokens: tuple[int, ...]

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters by vLLM's names."""
        return {
            "max_tokens": self.tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop_token_ids": list(self.stop_tokens),
        }


class Backend(Protocol):
    """A vLLM instance, in this process or behind a server."""

    def serve(self, engine: "VLLMEngine") -> None:
        """Make it run this engine's model.

        Raises:
            UserError: when it cannot.
        """
        ...

    def complete(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        """Return the tokens of each completion, including the stop token if it was reached."""
        ...

    def read(self, sequences: Sequence[TokenIds]) -> list[list[float]]:
        """Return the log-probability (nats) of each token given those before it, for all but a sequence's first."""
        ...

    def rest(self) -> None:
        """Free its memory until the next request."""
        ...


class VLLMEngine(TrainableWrapper[TransformersEngine]):
    """A causal language model that vLLM runs; implements `harness.engines.base.TrainableEngine`.

    What vLLM does not do (training, encoding conversations) is left to the transformers engine.
    """

    def __init__(self, local: TransformersEngine, folder: Path, backend: Backend) -> None:
        """
        Args:
            local: the same model in transformers.
            folder: where its weights and tokenizer are.

        Raises:
            UserError: for an adapter, whose merged weights are in no folder.
        """
        if base_folder(folder):
            raise UserError(
                f"{folder} is an adapter, which is not supported with vLLM: give --engine transformers, or a model "
                "with the adapter merged into it"
            )
        super().__init__(local)
        self.folder, self.backend = folder, backend

    @property
    def local(self) -> TransformersEngine:
        return self._engine

    @property
    def unit(self) -> int:
        """Prompts per call: a sequence that ends makes room for the next, so a call gets several batches."""
        return BATCHES * self.local.batch_size

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return one completion per prompt, in order. The noise of each is vLLM's, seeded with a hash of the seed and
        the item: it does not depend on other prompts, and differs from the transformers engine's.

        Raises:
            UserError: when a prompt leaves no room for a completion, or vLLM cannot run the model.
        """
        limits = self.local.room(prompts, items, sampling)
        seeds = (item_keys(items, sampling.seed) % SEEDS).tolist() if sampling.temperature else [None] * len(items)
        top_p = sampling.top_p if sampling.temperature else 1.0
        wishes = [
            Wish(prompt, limit, sampling.temperature, top_p, seed, tuple(self.local.stop_tokens))
            for prompt, limit, seed in zip(prompts, limits, seeds, strict=True)
        ]
        self.backend.serve(self)
        completed = self.backend.complete(wishes)
        if advance:
            advance(len(completed))
        return [self.local.completion(tokens) for tokens in completed]

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        """How many positions are needed: vLLM adds no padding."""
        return round(of_sequences(zip(prompts, completions, strict=True)).positions)

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Return the log-probability of each completion given its prompt, in order.

        Raises:
            UserError: when a prompt and its completion are longer than the context, or vLLM cannot run the model.
        """
        pairs = list(zip(prompts, completions, strict=True))
        check_lengths([len(prompt) + len(completion) for prompt, completion in pairs], self.local)
        found: dict[int, LogProb] = {}
        # vLLM writes a token after what it reads, for which a full context has no room
        fits = [len(prompt) + len(completion) < self.local.context_length for prompt, completion in pairs]
        short, full = ([place for place, fit in enumerate(fits) if fit == wanted] for wanted in (True, False))
        if short:
            self.backend.serve(self)
            read = self.backend.read([(*pairs[place][0], *pairs[place][1]) for place in short])
            for place, logprobs in zip(short, read, strict=True):
                scored = logprobs[len(pairs[place][0]) - 1 :]
                found[place] = LogProb(math.fsum(scored), len(scored))
        if full:
            whole = self.local.logprobs([pairs[place][0] for place in full], [pairs[place][1] for place in full])
            found |= zip(full, whole, strict=True)
        if advance:
            advance(len(found))
        return [found[place] for place in range(len(pairs))]

    def rest(self) -> None:
        """Free vLLM's memory for training."""
        self.backend.rest()

    def release(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        self.backend.rest()
        self.local.release()


class InProcess:
    """vLLM in this process, which holds one model at a time.

    Another model, such as the policy after a stage, is loaded from its folder into a new vLLM: weights that are
    reloaded in place are silently wrong if embeddings are tied (vllm-cpu 0.32).
    """

    def __init__(self, batch_size: int, tensor_parallel: int, memory: float, trust_remote_code: bool) -> None:
        """
        Args:
            batch_size: most sequences that run at once.
            tensor_parallel: number of GPUs that share the model.
            memory: share of each GPU's memory that vLLM takes; the rest is left for training.
        """
        self.batch_size = batch_size
        self._settings = {
            "max_num_seqs": batch_size,
            "tensor_parallel_size": tensor_parallel,
            "gpu_memory_utilization": memory,
            "trust_remote_code": trust_remote_code,
        }
        self._llm: LLM | None = None
        self._serving: VLLMEngine | None = None

    def serve(self, engine: VLLMEngine) -> None:
        if self._serving is engine:
            return
        self.rest()
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        on_cpu, context = engine.local.device.type == "cpu", engine.local.context_length
        # a prompt that is read in parts needs its noise generator rewound, which CPU generators do not support
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, CPU_TOKENS)} if on_cpu else {}
        with load_errors(str(engine.folder)):
            from vllm import LLM

            self._llm = LLM(
                model=str(engine.folder),
                dtype=str(engine.local.model.dtype).removeprefix("torch."),
                max_model_len=context,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                generation_config="vllm",  # sample as requested, whatever the model's file proposes
                disable_log_stats=True,
                skip_tokenizer_init=True,
                seed=0,
                **self._settings,
                **whole,
            )
        self._serving = engine

    def complete(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        from vllm import SamplingParams

        wanted = [SamplingParams(detokenize=False, **wish.sampling) for wish in wishes]
        outputs = self._ask([wish.prompt for wish in wishes], wanted)
        return [output.outputs[0].token_ids for output in outputs]

    def read(self, sequences: Sequence[TokenIds]) -> list[list[float]]:
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False)
        outputs = self._ask(sequences, [asked] * len(sequences))
        return [
            [known[token].logprob for known, token in zip(output.prompt_logprobs[1:], tokens[1:], strict=True)]
            for output, tokens in zip(outputs, sequences, strict=True)
        ]

    def _ask(self, prompts: Sequence[TokenIds], wanted: Sequence[Any]) -> list[Any]:
        assert self._llm is not None, "serve() comes first"
        read = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self._llm.generate(read, list(wanted), use_tqdm=False)

    def rest(self) -> None:
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm = self._serving = None
        gc.collect()
        cleanup_dist_env_and_memory()
        free()
