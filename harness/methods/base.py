"""What a method is: stages that collect examples and train on them.

Each stage has a share of the run's budget. It draws prompts, turns them into training examples with the help of a
generating model, and trains a copy of its start model on them; the start model is also the reference. A method only
says how examples are made and which objective they are for: the budget, training, resuming and the ledger are shared.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.budget import Ledger
from harness.engines.answering import answer_of, split_completion, thought_tokens
from harness.engines.base import Completion, Engine, LogProb, Sampling
from harness.experiment.search import Space
from harness.files import store
from harness.judges.base import Judge
from harness.progress import progress
from harness.thoughts import MARKS, Marks
from harness.training.examples import Example, Objective, TrainingOptions
from harness.types import Conversation, Prompt, TokenIds
from harness.work import Cost, Work, of_samples, of_sequences, wasted

NOT_WRITTEN = "principles not written"  # the event


@dataclass(frozen=True)
class Lengths:
    """Expected token counts, for planning: a templated prompt, what a system message with a principle adds to it,
    and a completion (stop token included)."""

    prompt: float
    system: float
    completion: float


@dataclass(frozen=True)
class QueryCost:
    """Expected work of one query in a stage, and the share of queries that become an example.

    collected: by the generating model in collecting. trained: on all sequences of one example.
    other_flops: of other models in collecting, such as one that writes principles.
    judged: by the experiment's judge, in collecting.
    """

    collected: Work
    trained: Work
    kept: float
    other_flops: float = 0.0
    judged: Work = Work()

    def collecting(self, cost: Cost, judge: Cost | None = None) -> float:
        """FLOPs of collecting. judge: of the judge, where it has any."""
        judging = judge.forward(self.judged) if judge else 0.0
        return cost.forward(self.collected) + judging + self.other_flops

    def flops(self, cost: Cost, needs_reference: bool, judge: Cost | None = None) -> float:
        return self.collecting(cost, judge) + self.kept * self.training(cost, needs_reference)

    def training(self, cost: Cost, needs_reference: bool) -> float:
        """FLOPs of training on one example, the reference's pass over it included."""
        return cost.training(self.trained) + (cost.forward(self.trained) if needs_reference else 0.0)


@dataclass
class Workbench:
    """What a stage works with. `engine` is the stage's generating model; `shared` is a folder for what the runs of an
    experiment share, such as the log of an endpoint; `judge` is for stages that ask one, `judge_cost` its FLOPs, where
    they are known; `record` is a file of all that models were asked and answered, also of what is then discarded."""

    engine: Engine
    ledger: Ledger
    sampling: Sampling
    stage: str
    judge: Judge | None = None
    most_missing: float = 1.0  # share of the judge's ratings that may have no verdict
    rejudge: bool = False  # a rating without a verdict is asked for once more
    marks: Marks = MARKS  # of thoughts, which are taken off completions
    judge_cost: Cost | None = None
    label: str = ""  # what progress shows: the arm
    shared: Path | None = None
    record: Path | None = None
    discarded: dict[str, int] = field(default_factory=dict)  # reason -> number of queries
    events: dict[str, int] = field(default_factory=dict)

    def sample(
        self, role: str, chats: Sequence[Conversation], items: Sequence[str], sampling: Sampling | None = None
    ) -> list[Completion]:
        """One completion a chat, charged to `role`. `items` are the noise keys, made unique to this stage here.

        A chat that the context can not hold (with what a method has added to its prompt) is counted, and its completion
        is empty and unfinished. Thoughts are charged, counted and taken off (`harness.thoughts`).
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
        splits = [split_completion(self.engine, *each, self.marks) for each in zip(read, generated, strict=True)]
        work = of_samples(read, [each.token_ids for each in generated])
        flops = self.ledger.cost(self.engine).forward(work)
        counted = all(each.computed is not None for each in generated)
        self.ledger.charge(
            role,
            flops,
            **wasted(flops, work, sum(each.computed for each in generated) if counted else None),
            calls=len(asked),
            prompt_tokens=sum(map(len, read)),
            generated_tokens=sum(len(completion.token_ids) for completion in generated),
            thought_tokens=sum(thought_tokens(self.engine, split) or 0 for split in splits if split.took_off),
            seconds=time.perf_counter() - start,
        )
        self.keep(
            {"role": role, "item": key, "prompt_ids": prompt, "completion_ids": each.token_ids}
            for key, prompt, each in zip(keys, read, generated, strict=True)
        )
        completions = [Completion((), "", finished=False)] * len(prompts)
        for index, completion, split in zip(asked, generated, splits, strict=True):
            completions[index] = answer_of(completion, split)
        self.count("thoughts taken off", sum(split.took_off for split in splits))
        return completions

    def encode_answers(self, chat: Conversation, answers: Sequence[Completion]) -> tuple[TokenIds, list[TokenIds]]:
        """Token ids of a prompt and of sampled answers to it, for training: the sampled ones; where a thought was taken
        off an answer, what the chat template makes of them all."""
        if any(answer.thought is not None for answer in answers):
            return self.engine.encode_replies(chat, [answer.text for answer in answers])
        return self.engine.encode_chat(chat), [answer.token_ids for answer in answers]

    def score(self, role: str, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[LogProb]:
        """Log-probabilities of given completions under the generating model, charged to `role`."""
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
        """Write down what models were asked, so that the ledger can be recounted: token ids, or numbers of tokens."""
        if self.record:
            store.append_jsonl(self.record, rows)

    def count(self, event: str, number: int = 1) -> None:
        """Count something that people should see, such as a judgment that could not be read."""
        if number:
            self.events[event] = self.events.get(event, 0) + number

    def discard(self, reason: str, number: int = 1) -> None:
        """Count queries that became no example."""
        if number:
            self.discarded[reason] = self.discarded.get(reason, 0) + number


Start = Literal["base", "current"]  # the untrained model, or the result of the previous stage (base in the first)


@dataclass(frozen=True)
class Stage:
    """One round of collecting and training.

    share: of the run's budget (the shares of a method's stages sum to 1).
    collect: prompts to examples, one or none for a prompt, in order.
    expect: the plan of a query, for `estimate` and for sizing the stage.
    generator, start: which model generates, and which is trained (a copy of it) and serves as the reference.
    labelled: draws given labelled pairs instead of prompts.
    judged: asks the experiment's judge while it collects.
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
    judged: bool = False


class Method(Protocol):
    """One file a method, found through the entry points `harness.methods` (a class without arguments)."""

    name: str  # as on the command line: "sso-v1"
    summary: str  # one line for `harness list`
    Options: type  # a frozen dataclass of plain values, every one with a default
    search_space: Space  # options that tuning tries (no number or name of a stage depends on them)

    def stages(self, options: Any) -> list[Stage]:
        """The stages for these options; none for `base`.

        Raises:
            UserError: when options do not fit together.
        """
        ...

    def supervision(self, options: Any) -> str:
        """Where the preferences come from, in a few words, for the table."""
        ...
