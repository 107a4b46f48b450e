"""The contenders of `harness bench eval`: each answers questions and reads completions in its own way."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.wrapper import TrainableWrapper
from harness.perf.flops import least
from harness.perf.subject import synchronize
from harness.progress import Advance
from harness.types import TokenIds
from harness.work import of_samples, of_sequences

T = TypeVar("T")


class Timed(TrainableWrapper[Any]):
    """An engine whose answers are recorded, with the time that they take.

    record: seconds in the engine; the answers by item (of completions of one prompt, the number of the likeliest per
        token); the log-probabilities in order (nats); positions computed; positions that the work needs by the rule of
        `harness.work`; and the least FLOPs (`harness.perf.flops.least`).
    """

    def begin(self) -> None:
        """Start a new record."""
        self.record: dict[str, Any] = {
            **{"seconds": 0.0, "answers": {}, "logprobs": []},
            **{"computed": 0, "needed": 0, "least": 0.0},
        }

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        completions = self._timed(lambda: self._answer(prompts, items, sampling))
        self.record["answers"] |= {item: each.text for item, each in zip(items, completions, strict=True)}
        made = [each.token_ids for each in completions]
        self.record["needed"] += of_samples(prompts, made).positions
        self.record["least"] += least(self._engine.needed(), prompts, made, sampled=True)
        return completions

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        found = self._timed(lambda: self._read(prompts, completions))
        by_prompt: dict[TokenIds, list[float]] = defaultdict(list)
        for prompt, each in zip(prompts, found, strict=True):
            by_prompt[prompt].append(each.mean)
        for values in by_prompt.values():
            self.record["answers"][f"choice {len(self.record['answers'])}"] = values.index(max(values))
        self.record["logprobs"] += [each.total for each in found]
        self.record["needed"] += of_sequences(zip(prompts, completions, strict=True)).positions
        self.record["least"] += least(self._engine.needed(), prompts, completions)
        return found

    def _timed(self, work: Callable[[], T]) -> T:
        """Return the result of work in the engine; its seconds and positions are recorded."""
        if not hasattr(self, "record"):
            self.begin()
        with self._counted():
            synchronize(self.device)
            start = time.perf_counter()
            result = work()
            synchronize(self.device)
            self.record["seconds"] += time.perf_counter() - start
        return result

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
        return self._engine.generate(prompts, items, sampling)

    def _read(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[LogProb]:
        return self._engine.logprobs(prompts, completions)

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


class Padded(Timed):
    """transformers' generate on batches of prompts, longest first, padded on the left; its forward pass on batches of
    sequences, longest first, padded on the right."""

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
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

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
    def _read(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[LogProb]:
        found: dict[int, LogProb] = {}
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = len(rows[batch[0]])
            ids = torch.tensor([[*rows[number], *[0] * (width - len(rows[number]))] for number in batch])
            mask = torch.tensor([[1] * len(rows[number]) + [0] * (width - len(rows[number])) for number in batch])
            logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
            for number, row in zip(batch, logits, strict=True):
                completion, end = torch.tensor(completions[number], device=self.device), len(rows[number])
                values = row[end - len(completion) - 1 : end - 1].float().log_softmax(-1)
                found[number] = LogProb(values.gather(1, completion[:, None]).sum().item(), len(completion))
        return [found[number] for number in range(len(rows))]


class HFLMBatches(Timed):
    """lm-eval's HFLM, which gets prompts and gives answers as texts. Completions to read it gets as tokens, like the
    others."""

    def _answer(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[Completion]:
        from lm_eval.api.instance import Instance

        wanted = {"until": [], "max_gen_toks": sampling.max_new_tokens, "do_sample": False}
        requests = [
            Instance("generate_until", {}, (self.tokenizer.decode(prompt), dict(wanted)), number)
            for number, prompt in enumerate(prompts)
        ]
        texts = self._harness_model().generate_until(requests, disable_tqdm=True)
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        return [Completion(tuple(tokens), text, True) for tokens, text in zip(ids, texts, strict=True)]

    def _read(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[LogProb]:
        asked = [
            (("", str(number)), list(prompt), list(completion))
            for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        totals = self._harness_model()._loglikelihood_tokens(asked, disable_tqdm=True)
        return [LogProb(total, len(completion)) for (total, _), completion in zip(totals, completions, strict=True)]

    def _harness_model(self) -> Any:
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=self.model,
            tokenizer=self.tokenizer,
            batch_size=self.batch_size,
            max_length=self.context_length,
            add_bos_token=False,
        )
