"""The contenders in training: each computes the losses of the same batches in its own way."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from harness.engines.linear import use_fast_products
from harness.engines.logprobs import attend_packed, sequence_logprobs
from harness.engines.packing import PackedBatch, pack
from harness.engines.reading import how_to_read
from harness.errors import UserError
from harness.experiment import registry
from harness.perf.workload import EOS, FIRST_WORD, PAD, UNKNOWN, ModelShape, PairLengths, Workload
from harness.training.losses import PreferenceObjective

BETA = 0.1
AUXILIARY = 0.1  # weight of SSO's auxiliary terms
ALPHA = 0.66  # share of the chosen response in SSO's weight W
PADDED_TO = 8  # multiple that the published code pads to
MODELS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def build_model(shape: ModelShape, seed: int, device: torch.device | str) -> PreTrainedModel:
    """Build a model with random float32 weights."""
    configuration, model = MODELS[shape.model_type]
    torch.manual_seed(seed)
    return model(
        configuration(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=EOS,
            attn_implementation="sdpa",
        )
    ).to(device)


class Contender(ABC):
    """A way to compute the losses.

    policy: the trained model. reference: None if it is no longer read.
    """

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.device = device
        self.policy = build_model(workload.shape, workload.seed, device).train()
        self.reference: PreTrainedModel | None = build_model(workload.shape, workload.seed + 1, device).eval()

    @abstractmethod
    def losses(self) -> Iterator[torch.Tensor]:
        """Yield the loss of each batch, ready for `backward`; batches are assembled on the way."""

    @abstractmethod
    def work(self) -> dict[str, int]:
        """Count the work of a policy pass over all batches: `positions` that the layers process, `head_positions` whose
        logits are computed, `attended` pairs of positions."""


class Ours(Contender):
    """Our implementation: completions share their prompt, rows are packed, logits only at completion tokens, in chunks.

    cached: the reference's log-probabilities were computed before, and it is no longer in memory.
    attention: for packed sequences, "sdpa" or "flex".

    Raises:
        UserError: when the attention is not available.
    """

    def __init__(self, workload: Workload, device: torch.device, cached: bool = False, attention: str = "sdpa") -> None:
        super().__init__(workload, device)
        if attention == "flex" and device.type != "cuda":
            raise UserError("FlexAttention trains on CUDA only: give --device cuda, or omit ours-flex")
        self.batches = [[pair for example in batch for pair in example] for batch in workload.batches()]
        self.objective = _objective(workload.objective)
        for model in (self.policy, self.reference):
            use_fast_products(model)
        self.readings = [how_to_read(model, attention) for model in (self.policy, self.reference)]
        self.cache: list[torch.Tensor] | None = None
        if cached:
            self.cache = [self._reference(self._pack(pairs)) for pairs in self.batches]
            self.reference = None

    def _pack(self, pairs: list[PairLengths]) -> PackedBatch:
        return pack(pairs).to(self.device)

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
    def _reference(self, packed: PackedBatch) -> torch.Tensor:
        with attend_packed(self.reference, self.readings[1]):
            return sequence_logprobs(self.reference, packed, self.readings[1])

    def losses(self) -> Iterator[torch.Tensor]:
        shape = (-1, self.objective.sequences)
        for index, pairs in enumerate(self.batches):
            packed = self._pack(pairs)
            with attend_packed(self.policy, self.readings[0]):
                policy = sequence_logprobs(self.policy, packed, self.readings[0])
            reference = self.cache[index] if self.cache else self._reference(packed)
            losses, _ = self.objective(policy.view(shape), reference.view(shape), packed.lengths.view(shape))
            yield losses.mean()

    def work(self) -> dict[str, int]:
        packed = [pack(pairs) for pairs in self.batches]
        return {
            "positions": sum(batch.tokens for batch in packed),
            "head_positions": sum(len(batch.targets) for batch in packed),
            "attended": sum(group.mask.numel() for batch in packed for group in batch.groups),
        }


def _objective(name: str) -> Any:
    if name == "dpo":
        return PreferenceObjective(loss="dpo", beta=BETA)
    method = registry.load("method", "sso-v1")
    options = method.Options(loss="dpo", beta=BETA, auxiliary=AUXILIARY, alpha=ALPHA, weight_form="released")
    return method.stages(options)[0].objective


class Published(Contender):
    """The pattern of the code that SSO's authors published, rewritten: each pair of sequences has its own pass through
    policy and reference, all padded to the longest of the six, with float32 logits everywhere."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        super().__init__(workload, device)
        self.batches = workload.batches()

    def losses(self) -> Iterator[torch.Tensor]:
        for examples in self.batches:
            passes = [tuple(each.to(self.device) for each in part) for part in self._passes(examples)]
            policy = [self._logprobs(self.policy, *part) for part in passes]
            with torch.no_grad():
                reference = [self._logprobs(self.reference, *part)[0] for part in passes]
            main, *auxiliary = (
                _preference(of_policy, of_reference)
                for (of_policy, _), of_reference in zip(policy, reference, strict=True)
            )
            sums, lengths = policy[0]
            chosen, rejected = (sums / lengths).chunk(2)
            weight = torch.sigmoid(-(ALPHA * chosen + (1 - ALPHA) * rejected))
            yield (main + weight * AUXILIARY * sum(auxiliary)).mean()

    @staticmethod
    def _passes(examples: list[list[PairLengths]]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return ids, attention mask and labels, each (2 B, L), for each of the three pairs, the chosen ones first."""
        longest = max(len(prompt) + len(completion) for example in examples for prompt, completion in example)
        size = -(-longest // PADDED_TO) * PADDED_TO
        passes = []
        for first in range(0, len(examples[0]), 2):
            rows = [example[place] for place in (first, first + 1) for example in examples]
            ids = torch.full((len(rows), size), PAD)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, (prompt, completion) in enumerate(rows):
                end = len(prompt) + len(completion)
                ids[row, :end] = torch.tensor(prompt + completion)
                mask[row, :end] = 1
                labels[row, len(prompt) : end] = torch.tensor(completion)
            passes.append((ids, mask, labels))
        return passes

    @staticmethod
    def _logprobs(
        model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (2 B,) sums over the labelled tokens and how many there are, computed from all logits."""
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        labels = labels[:, 1:]
        scored = labels != -100
        targets = labels.masked_fill(~scored, 0)[..., None]
        logprobs = logits[:, :-1].log_softmax(-1).gather(2, targets).squeeze(2)
        return (logprobs * scored).sum(1), scored.sum(1)

    def work(self) -> dict[str, int]:
        sizes = [ids.shape for examples in self.batches for ids, _, _ in self._passes(examples)]
        return _padded_work(sizes)


def _preference(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return (B,) DPO losses of (2 B,) log-probabilities, the chosen ones first."""
    chosen, rejected = (policy - reference).chunk(2)
    return -logsigmoid(BETA * (chosen - rejected))


def _padded_work(sizes: list[tuple[int, int]]) -> dict[str, int]:
    """Count the work of batches (rows, length) whose logits are computed everywhere."""
    positions = sum(rows * length for rows, length in sizes)
    attended = sum(rows * length**2 for rows, length in sizes)
    return {"positions": positions, "head_positions": positions, "attended": attended}


class TRL(Contender):
    """TRL's DPOTrainer as it is: its data preparation, batches and loss.

    cached: use its precompute_ref_log_probs.
    """

    def __init__(self, workload: Workload, device: torch.device, cached: bool = False) -> None:
        super().__init__(workload, device)
        from datasets import Dataset, disable_progress_bars
        from trl import DPOConfig, DPOTrainer

        disable_progress_bars()
        pairs = [pair for batch in workload.batches() for pair in batch]
        rows = [
            {"prompt": _text(prompt), "chosen": f" {_text(chosen[:-1])}", "rejected": f" {_text(rejected[:-1])}"}
            for (prompt, chosen), (_, rejected) in pairs
        ]
        with tempfile.TemporaryDirectory() as folder:
            self.trainer = DPOTrainer(
                self.policy,
                ref_model=self.reference,
                args=DPOConfig(
                    folder,
                    beta=BETA,
                    per_device_train_batch_size=workload.batch,
                    max_length=workload.shape.context,
                    train_sampling_strategy="sequential",
                    precompute_ref_log_probs=cached,
                    activation_checkpointing=False,
                    use_cpu=device.type == "cpu",
                    bf16=False,  # autocast wraps all contenders
                    disable_tqdm=True,
                    report_to=[],
                    seed=workload.seed,
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=_tokenizer(workload.shape.vocabulary),
            )
        for row, ((prompt, chosen), (_, rejected)) in zip(self.trainer.train_dataset, pairs, strict=True):
            read = tuple(tuple(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
            if read != (prompt, chosen, rejected):
                raise RuntimeError("TRL does not have the same tokens as the other contenders")
        if cached:
            self.reference = self.trainer.ref_model = None
        self.policy.train()

    def losses(self) -> Iterator[torch.Tensor]:
        for batch in self.trainer.get_train_dataloader():
            yield self.trainer.compute_loss(self.policy, batch)

    def work(self) -> dict[str, int]:
        batches = list(self.trainer.get_train_dataloader())
        work = _padded_work([batch["input_ids"].shape for batch in batches])
        if self.device.type != "cpu":  # there its fused LM head skips tokens outside of completions
            work["head_positions"] = sum(int(batch["completion_mask"].sum()) for batch in batches)
        return work


def _text(ids: tuple[int, ...]) -> str:
    return " ".join(f"w{each}" for each in ids)


def _tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer with one word per token id, so that text encodes to the intended ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN} | {f"w{i}": i for i in range(FIRST_WORD, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
