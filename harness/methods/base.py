"""The method protocol: a method is a list of stages that collect examples and train on them.

Each stage has a share of the run's budget. It draws prompts, turns them into training examples with a generating model,
and trains a copy of its start model on them; the start model is also the reference. A method only defines how examples
are made and which objective they are for: budget, training, resuming and ledger are shared.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.budget import Ledger
from harness.engines.answering import answer_of, split_completion, thought_tokens
from harness.engines.base import Completion, LogProb, Sampling, TrainableEngine
from harness.experiment.search import Space
from harness.files import store
from harness.judges.base import Judge
from harness.methods.prompts import Rows
from harness.progress import progress
from harness.thoughts import MARKS, Marks
from harness.training.examples import Example, Objective, TrainingOptions
from harness.types import Conversation, Prompt, TokenIds
from harness.work import Cost, Work, of_samples, of_sequences, wasted

NOT_WRITTEN = "principles not written"  # name of the event


@dataclass(frozen=True)
class Lengths:
    """Expected token counts, for planning.

    prompt: a prompt as the chat template writes it.
    system: what a system message with a principle adds to it.
    completion: a completion with its stop token.
    finished: share of completions that end before the limit.
    """

    prompt: float
    system: float
    completion: float
    finished: float = 1.0


@dataclass(frozen=True)
class QueryCost:
    """Expected work of one query in a stage.

    collected: work of the generating model while collecting.
    trained: work of one pass over all sequences of an example.
    kept: share of queries that become an example.
    other_flops: FLOPs of other models while collecting, such as one that writes principles.
    judged: work of the experiment's judge while collecting.
    """

    collected: Work
    trained: Work
    kept: float
    other_flops: float = 0.0
    judged: Work = Work()

    def collecting(self, cost: Cost, judge: Cost | None = None) -> float:
        """FLOPs of collecting; those of the judge count where `judge` says how."""
        judging = judge.forward(self.judged) if judge else 0.0
        return cost.forward(self.collected) + judging + self.other_flops

    def flops(self, cost: Cost, needs_reference: bool, judge: Cost | None = None) -> float:
        return self.collecting(cost, judge) + self.kept * self.training(cost, needs_reference)

    def training(self, cost: Cost, needs_reference: bool) -> float:
        """FLOPs of training on one example, including the reference's pass over it."""
        return cost.training(self.trained) + (cost.forward(self.trained) if needs_reference else 0.0)


@dataclass
class Workbench:
    """What a stage works with.

    engine: the stage's generating model.
    judge: for stages that ask one. judge_cost: how its FLOPs are counted, where its size is known.
    most_missing: share of the judge's ratings that may lack a verdict.
    rejudge: whether a rating without a verdict is requested once more.
    marks: marks of thoughts, which are removed from completions.
    label: what progress shows, such as the arm.
    shared: folder for what the runs of an experiment share, such as the log of an endpoint.
    record: file of everything that models were asked and answered, including what is then discarded.
    discarded: reason -> number of queries.
    """

    engine: TrainableEngine
    ledger: Ledger
    sampling: Sampling
    stage: str
    judge: Judge | None = None
    most_missing: float = 1.0
    rejudge: bool = False
    marks: Marks = MARKS
    judge_cost: Cost | None = None
    label: str = ""
    shared: Path | None = None
    record: Path | None = None
    discarded: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)

    def sample(
        self, role: str, chats: Sequence[Conversation], items: Sequence[str], sampling: Sampling | None = None
    ) -> list[Completion]:
        """Sample one completion per chat, charged to `role`.

        A chat that the context cannot hold (with what a method has added to its prompt) is counted, and its completion
        is empty and unfinished. Thoughts are charged, counted and removed (`harness.thoughts`).

        Args:
            items: keys of the sampling noise; the stage's name is put before them.
            sampling: in place of the workbench's.
        """
        prompts = [self.engine.encode_chat(chat) for chat in chats]
        asked = [index for index, prompt in enumerate(prompts) if len(prompt) < self.engine.context_length]
        self.count("prompt longer than the context", len(prompts) - len(asked))
        keys = [f"{self.stage}/{items[index]}" for index in asked]
        start = time.perf_counter()
        with progress(f"{self.label} {self.stage}: {role}", len(asked)) as advance:
            generated = self.engine.generate(
                [prompts[index] for index in asked], keys, sampling or self.sampling, advance
            )
        read = [prompts[index] for index in asked]
        splits = [
            split_completion(self.engine, prompt, completion, self.marks)
            for prompt, completion in zip(read, generated, strict=True)
        ]
        work = of_samples(read, [completion.token_ids for completion in generated])
        flops = self.ledger.cost(self.engine).forward(work)
        computed = [completion.computed for completion in generated if completion.computed is not None]
        self.ledger.charge(
            role,
            flops,
            **wasted(flops, work, sum(computed) if len(computed) == len(generated) else None),
            calls=len(asked),
            prompt_tokens=sum(map(len, read)),
            generated_tokens=sum(len(completion.token_ids) for completion in generated),
            thought_tokens=sum(thought_tokens(self.engine, split) or 0 for split in splits if split.took_off),
            seconds=time.perf_counter() - start,
        )
        self.keep(
            {"role": role, "item": key, "prompt_ids": prompt, "completion_ids": completion.token_ids}
            for key, prompt, completion in zip(keys, read, generated, strict=True)
        )
        completions = [Completion((), "", finished=False)] * len(prompts)
        for index, completion, split in zip(asked, generated, splits, strict=True):
            completions[index] = answer_of(completion, split)
        self.count("thoughts taken off", sum(split.took_off for split in splits))
        return completions

    def encode_answers(self, chat: Conversation, answers: Sequence[Completion]) -> tuple[TokenIds, list[TokenIds]]:
        """Token ids of a prompt and of sampled answers to it, for training: the sampled ids, or, where a thought was
        removed from an answer, those that the chat template gives for all of them."""
        if any(answer.thought is not None for answer in answers):
            return self.engine.encode_replies(chat, [answer.text for answer in answers])
        return self.engine.encode_chat(chat), [answer.token_ids for answer in answers]

    def score(self, role: str, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[LogProb]:
        """Compute log-probabilities of given completions under the generating model, charged to `role`."""
        start = time.perf_counter()
        with progress(f"{self.label} {self.stage}: {role}", len(prompts)) as advance:
            scored = self.engine.logprobs(prompts, completions, advance)
        work = of_sequences(zip(prompts, completions, strict=True))
        flops = self.ledger.cost(self.engine).forward(work)
        self.ledger.charge(
            role,
            flops,
            **wasted(flops, work, self.engine.positions(prompts, completions)),
            calls=len(prompts),
            prompt_tokens=int(work.read),
            seconds=time.perf_counter() - start,
        )
        self.keep(
            {"role": role, "prompt_ids": prompt, "read_ids": completion}
            for prompt, completion in zip(prompts, completions, strict=True)
        )
        return scored

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Record what models were asked (token ids or numbers of tokens), so that the ledger can be recomputed."""
        if self.record:
            store.append_jsonl(self.record, rows)

    def count(self, event: str, number: int = 1) -> None:
        """Count an event that people should see, such as an unreadable judgment."""
        if number:
            self.events[event] = self.events.get(event, 0) + number

    def discard(self, reason: str, number: int = 1) -> None:
        """Count queries that did not become an example."""
        if number:
            self.discarded[reason] = self.discarded.get(reason, 0) + number


Start = Literal["base", "current"]  # the untrained model, or the result of the previous stage (in the first: base)


@dataclass(frozen=True)
class Stage:
    """One round of collecting and training.

    share: of the run's budget (the shares of a method's stages sum to 1).
    collect: turns prompts into examples, at most one per prompt, in order.
    expect: the expected cost of a query, for `estimate` and for sizing the stage.
    generator, start: which model generates, and which one is the reference and, as a copy, trained.
    labelled: draws labelled rows instead of prompts.
    rows: what it reads of its rows (`harness.methods.prompts.Rows`); prompts without "answers" are plain.
    judged: asks the experiment's judge while collecting.
    """

    name: str
    share: float
    collect: Callable[[Workbench, Sequence[Prompt]], list[Example]]
    expect: Callable[[Lengths], QueryCost]
    objective: Objective
    training: TrainingOptions
    generator: Start = "current"
    start: Start = "current"
    labelled: bool = False
    rows: Rows = "pairs"
    judged: bool = False


class Method(Protocol):
    """A method: one file, found through the entry points `harness.methods` (a class without arguments).

    A control, which is made to do worse than another method, also has `control_of`, the name of that method: a table in
    which it does not is marked with a warning.
    """

    @property
    def name(self) -> str:
        """Its name on the command line, such as "sso-v1"."""
        ...

    @property
    def summary(self) -> str:
        """One line for `harness list`."""
        ...

    @property
    def Options(self) -> type[Any]:
        """A frozen dataclass of plain values, each with a default."""
        ...

    @property
    def search_space(self) -> Space:
        """Options that tuning tries; the number and names of stages must not depend on them."""
        ...

    def stages(self, options: Any) -> list[Stage]:
        """The stages for these options, in order; `base` has none.

        Raises:
            UserError: when options do not fit together.
        """
        ...

    def supervision(self, options: Any) -> str:
        """Where the preferences come from, in a few words, for the table."""
        ...
