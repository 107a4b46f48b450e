"""Build the testbed's model from scratch: corpus, tokenizer, Llama-architecture weights, measurements.

The recipe counts steps, not seconds, and runs on one thread: the same seed on the same machine gives the same bytes.
Copying and arithmetic emerge late, so training starts on dense documents and clean chats, and ends on the mixture with
a falling learning rate. Hidden matrices are trained with Muon, the rest with AdamW.
"""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.progress import progress
from harness.testbed import corpus

SPECIALS = {
    "pad": "<|pad|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "end": "<|end|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
EXAMPLES_PER_DRAW = 4000


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights."""

    seed: int = 0
    steps: int = 6600
    tokens_a_step: int = 2048  # including padding
    dense_until: float = 0.32  # share of the steps on documents
    clean_until: float = 0.52  # then on clean chats, then on the mixture
    constant_until: float = 0.5  # share of the steps at the full learning rate; then linear to last_rate of it
    last_rate: float = 0.03
    warmup: int = 40
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    vocabulary: int = 768
    hidden: int = 128
    layers: int = 4
    feed_forward: int = 336
    heads: int = 4
    context: int = 8192  # rotary positions need no table, so real questions fit too


def build(out: Path, recipe: Recipe = Recipe(), measure: bool = True) -> dict[str, Any]:
    """Train the model and save it (bfloat16 safetensors, tokenizer with chat template) with testbed.json.

    Returns:
        the content of testbed.json: the recipe and, with `measure`, the model's measurements.
    """
    tokenizer = make_tokenizer(recipe)
    with _reproducible(recipe.seed):
        model = _make_model(tokenizer, recipe)
        losses = _train(model, tokenizer, recipe)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts: dict[str, Any] = {"recipe": asdict(recipe), "losses": losses}
    if measure:
        from harness.testbed.measure import measure_model

        facts |= measure_model(out)
    (out / "testbed.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Inside, torch is seeded, deterministic and on one thread, because sums depend on the number of threads."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _make_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.feed_forward,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with single digits on the mixture; the chat template writes each special token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    draw = random.Random(recipe.seed)
    texts = (turn.text for _ in range(6000) for turn in corpus.mixture(draw))
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIALS["pad"], eos_token=SPECIALS["end"], padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _encode(turns: Iterator[corpus.Turn], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """Return the token ids of an example, and which of them are learned: replies with their end token."""
    encode = tokenizer.backend_tokenizer.encode
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        tokens = encode(turn.text, add_special_tokens=False).ids
        before = [] if turn.role is None else [tokenizer.convert_tokens_to_ids(SPECIALS[turn.role])]
        after = [] if turn.role is None else [tokenizer.eos_token_id]
        ids += before + tokens + after
        learned += [False] * len(before) + [turn.learned] * (len(tokens) + len(after))
    return ids, learned


def _batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (tokens, learned) of each step, both (rows, length), with rows of similar length."""
    draw = random.Random(recipe.seed + 1)
    step = 0
    while step < recipe.steps:
        share = step / recipe.steps
        make = (
            corpus.document
            if share < recipe.dense_until
            else corpus.clean_chat
            if share < recipe.clean_until
            else corpus.mixture
        )
        examples = sorted(
            (_encode(make(draw), tokenizer) for _ in range(EXAMPLES_PER_DRAW)), key=lambda one: len(one[0])
        )
        batches, batch = [], []
        for example in examples:
            batch.append(example)
            if len(batch) * len(example[0]) >= recipe.tokens_a_step:
                batches.append(batch)
                batch = []
        draw.shuffle(batches)
        for batch in batches[: recipe.steps - step]:
            step += 1
            yield _pad(batch, tokenizer.pad_token_id)


def _pad(batch: list[tuple[list[int], list[bool]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([one + [pad] * (longest - len(one)) for one, _ in batch])
    learned = torch.tensor([one + [False] * (longest - len(one)) for _, one in batch])
    return ids, learned


def _train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> list[float]:
    """Train in place; return the mean loss of each twentieth of the steps."""
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    rest = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, recipe)) for one in optimizers]
    losses = []
    model.train()
    with progress("train the testbed model", recipe.steps) as advance:
        for ids, learned in _batches(tokenizer, recipe):
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            wanted = learned[:, 1:]
            loss = F.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in (*optimizers, *schedules):
                stepper.step()
            model.zero_grad(set_to_none=True)
            losses.append(loss.item())
            advance(1)
    model.eval()
    part = max(1, recipe.steps // 20)
    return [round(sum(losses[i : i + part]) / len(losses[i : i + part]), 4) for i in range(0, len(losses), part)]


def _rate(step: int, recipe: Recipe) -> float:
    share = step / recipe.steps
    falling = (1 - share) / (1 - recipe.constant_until)
    return min(1.0, (step + 1) / recipe.warmup) * (
        1.0 if share < recipe.constant_until else max(recipe.last_rate, falling)
    )
