"""Runs `harness` and writes down its work: python tests/helpers/counted_run.py FILE ARGS...

A line is appended to FILE before each piece of work, so that what a SIGKILL cuts short is counted too: every forward
pass of a model (2 N FLOPs a position, 6 N where it is trained on), and every request to the judge. A line also says
when and in which step and phase that was; steps and most phases are what progress shows.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

START, BETWEEN = "start-up", "between"  # phases without progress; BETWEEN: results and marks are written, models loaded
BENCHMARKS = ("mt-bench", "alpaca-eval", "reward-bench", "math")


class Work:
    """The file, and where the run is."""

    def __init__(self, file: str) -> None:
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._times: Counter[str] = Counter()
        self._step, self._phase = START, START
        self.note()

    def note(self, flops: float = 0.0, calls: int = 0) -> None:
        row = {"time": time.monotonic(), "step": self._step, "phase": self._phase, "flops": flops, "calls": calls}
        os.write(self._handle, json.dumps(row).encode() + b"\n")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        outer, self._phase = self._phase, name
        self.note()
        yield
        self._phase = BETWEEN if outer == START else outer
        self.note()

    def during(self, name: str, function: Callable) -> Callable:
        """The function, as a phase."""

        @wraps(function)
        def counted(*args, **kwargs):
            with self.phase(name):
                return function(*args, **kwargs)

        return counted

    def shown(self, progress: Callable) -> Callable:
        """`harness.progress.progress`, each use of which is a step."""

        @contextmanager
        def counted(label: str, total: int | None):
            self._times[label] += 1
            self._step = f"{label} {self._times[label]}"
            with self.phase(label.rpartition(": ")[2]), progress(label, total) as advance:
                yield advance

        return counted

    def asked(self, reply: Callable) -> Callable:
        """The judge's reply to one request."""

        @wraps(reply)
        def counted(*args, **kwargs):
            self.note(calls=1)
            return reply(*args, **kwargs)

        return counted

    def passes(self, initialize: Callable) -> Callable:
        """`TransformersEngine.__init__`: copies of its model are counted too."""
        import torch

        from harness.work import Nominal
        from harness.work import Work as Done

        @wraps(initialize)
        def counted(engine, *args, **kwargs):
            initialize(engine, *args, **kwargs)
            cost = Nominal(engine.parameters)

            def before(model, _, inputs: dict) -> None:
                passed = cost.training if torch.is_grad_enabled() else cost.forward
                self.note(passed(Done(read=inputs["input_ids"].numel())))

            engine.model.register_forward_pre_hook(before, with_kwargs=True)

        return counted


def main() -> None:
    work = Work(sys.argv.pop(1))
    from harness import progress

    progress.progress = work.shown(progress.progress)  # before it is imported by its name
    from transformers import PreTrainedModel

    from harness import cli
    from harness.engines.transformers import TransformersEngine
    from harness.experiment import registry
    from harness.runs import run as runner
    from harness.testbed import judge

    TransformersEngine.__init__ = work.passes(TransformersEngine.__init__)
    PreTrainedModel.save_pretrained = work.during("save", PreTrainedModel.save_pretrained)
    for benchmark in (type(registry.load("benchmark", name)) for name in BENCHMARKS):
        benchmark.score = work.during("score", benchmark.score)
    runner.write_table = work.during("table", runner.write_table)
    judge._reply = work.asked(judge._reply)
    cli.main()


if __name__ == "__main__":
    main()
