"""`harness bench eval`: answers and log-probabilities by our engine, by transformers, and by lm-eval's HFLM if it is
installed."""

import importlib.util
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines.base import Sampling
from harness.errors import UserError
from harness.perf.process import Remote
from harness.progress import progress

PEER = "transformers"
OURS = "ours"
CONTENDERS = (PEER, *(["lm-eval"] if importlib.util.find_spec("lm_eval") else []), OURS)


@dataclass(frozen=True)
class QuestionSet:
    """What is asked.

    benchmark: None asks the embedded model's prompts.
    limit: how many questions.
    sections: only questions of these, such as MMLU's subjects; none means all.
    """

    benchmark: str | None
    data_dir: Path
    limit: int
    new_tokens: int
    sections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What answers, and on what."""

    model: str
    batch: int
    threads: int
    device: str
    dtype: str


def measure(asked: QuestionSet, machine: Machine, rounds: int, flops: bool = False) -> dict[str, Any]:
    """Measure the seconds of greedy answers or of log-probabilities, in interleaved rounds, and compare them.

    Args:
        flops: count FLOPs, in one more round.

    Raises:
        UserError: when the model or the questions cannot be used.
    """
    with ExitStack() as stack, progress("bench eval", len(CONTENDERS) * (1 + rounds + flops)) as advance:
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
        for name, subject in subjects.items() if flops else ():
            advance.note(f"{name}, counting FLOPs")
            seen[name][0]["flops"] = subject.call("flops")
            advance(1)
    return {
        "asked": asdict(asked) | {"data_dir": str(asked.data_dir)},
        "machine": asdict(machine),
        "rounds": rounds,
        "contenders": {name: figures(measured, seen[PEER]) for name, measured in seen.items()},
    }


def figures(rounds: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a contender's figures over all rounds; answers, log-probabilities and counts are those of the first."""
    seconds = [each["seconds"] for each in rounds]
    median, first, other = statistics.median(seconds), rounds[0], peer[0]
    differences = [abs(one - two) for one, two in zip(first["logprobs"], other["logprobs"], strict=True)]
    return {
        "seconds": {"median": median, "min": min(seconds), "max": max(seconds), "rounds": seconds},
        "speed_ratio": statistics.median(each["seconds"] for each in peer) / median,
        "answers": len(first["answers"]),
        "equal_answers": sum(other["answers"][item] == text for item, text in first["answers"].items()),
        "largest_difference": max(differences, default=None),
        "computed": first["computed"],
        "computed_to_needed": first["computed"] / other["needed"],
        "flops_to_least": first["flops"] / other["least"] if "flops" in first else None,
    }


class EvaluationSubject:
    """One of CONTENDERS, in its own process."""

    def __init__(self, name: str, asked: QuestionSet, machine: Machine) -> None:
        from harness.engines.transformers import TransformersEngine
        from harness.models.folder import MODEL_DIR
        from harness.perf import answering
        from harness.perf.subject import ready

        device = ready(machine.device, machine.threads)
        path = MODEL_DIR if machine.model == "testbed" else Path(machine.model)
        engine = TransformersEngine.load(path, device=device.type, dtype=machine.dtype, batch_size=machine.batch)
        kinds = {PEER: answering.Padded, "lm-eval": answering.HFLMBatches, OURS: answering.Timed}
        self.asked, self.engine = asked, kinds[name](engine)
        prompt = engine.encode_chat([{"role": "user", "content": "?"}])
        self.engine.generate([prompt], ["warm-up"], Sampling(2))
        self.engine.logprobs([prompt], [prompt])

    def flops(self) -> int:
        """Answer all questions, and return the FLOPs of the matrix products that torch counts."""
        from harness.perf.flops import counted

        with counted() as counter:
            self.round()
        return counter.get_total_flops()

    def round(self) -> dict[str, Any]:
        """Answer all questions, and return what `harness.perf.answering.Timed` records."""
        self.engine.begin()
        if self.asked.benchmark:
            self._benchmark(self.asked.benchmark)
        else:
            self._embedded()
        return self.engine.record

    def _benchmark(self, name: str) -> None:
        from harness.benchmarks.base import Policy, Settings
        from harness.benchmarks.loading import load_benchmark
        from harness.benchmarks.questions import load_questions, sample

        settings = Settings(temperature=0.0, max_new_tokens=self.asked.new_tokens, limit=self.asked.limit)
        benchmark, limit = load_benchmark(name), self.asked.limit
        if self.asked.sections and not benchmark.sections:
            raise UserError(f"the questions of {name} have no sections: omit --sections")
        every = replace(settings, limit=None) if self.asked.sections else settings
        items = load_questions(name, self.asked.data_dir, every)
        if self.asked.sections:
            places = [place for place, item in enumerate(items) if item[benchmark.sections] in self.asked.sections]
            if not places:
                raise UserError(f"{name} has no questions of {', '.join(self.asked.sections)}: see --sections")
            asked = items.only(places)
            items = asked.only(sample(asked, limit, benchmark.sections))
        benchmark.answer(Policy(self.engine), items, settings, None)

    def _embedded(self) -> None:
        from harness.testbed.prompts import prompts

        asked = prompts(self.asked.limit)
        chats = [self.engine.encode_chat(prompt.messages) for prompt in asked]
        self.engine.generate(chats, [prompt.id for prompt in asked], Sampling(self.asked.new_tokens))
