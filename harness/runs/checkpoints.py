"""A checkpoint along the way: the policy of an arm as it was at a fraction of its budget, scored like the arm."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Protocol

from harness.benchmarks.base import Policy, step_names
from harness.benchmarks.loading import benchmarks_of
from harness.budget import Ledger
from harness.engines.base import Engine, TrainableEngine
from harness.errors import UserError
from harness.files.folders import CHECKPOINT
from harness.files.marks import Mark
from harness.methods.base import Stage
from harness.runs.inputs import Inputs
from harness.runs.scoring import ScoredArm, Scoring
from harness.stages.intermediate import Intermediate
from harness.types import Prompt


class TrainedArm(ScoredArm, Protocol):
    """What a checkpoint needs to know of its arm (`harness.runs.arm.Arm`)."""

    def training_steps(self) -> list[str]: ...

    def intermediate(self, inputs: Inputs) -> Intermediate: ...

    def load(self, path: Path) -> TrainableEngine: ...


class Checkpoint:
    """The policy of an arm at a fraction of its budget (a `harness.runs.scoring.ScoredArm`).

    folder: its own, in that of the arm. benchmarks: without those that score the arm's pairs, which are the same.
    """

    def __init__(self, arm: TrainedArm, fraction: float):
        self.arm, self.fraction = arm, fraction
        self.experiment, self.name, self.seed = arm.experiment, arm.name, arm.seed
        self.label = f"{arm.label} at {fraction:g}"
        self.folder = arm.folder.along(fraction)
        self.benchmarks = tuple(name for name, each in benchmarks_of(arm.experiment).items() if not each.needs_pairs)

    @property
    def stages(self) -> list[Stage]:
        return self.arm.stages

    @property
    def beta(self) -> float | None:
        return self.arm.beta

    @property
    def mark(self) -> Mark | None:
        """The mark of its step; None when it is not finished."""
        return self.folder.mark(CHECKPOINT)

    @property
    def none(self) -> str | None:
        """Why there is no policy at this fraction; None where there is one, or the step is not finished."""
        return self.mark.facts.get("none") if self.mark else None

    def steps(self) -> list[str]:
        """Names of all steps, each before those that depend on it."""
        return [CHECKPOINT, *chain.from_iterable(map(step_names, self.benchmarks))]

    def training_steps(self) -> list[str]:
        """Names of the arm's steps that it rests on."""
        stage = self.mark.facts["stage"] if self.mark else None
        return list(takewhile(lambda step: step != stage, self.arm.training_steps()))

    def damage(self, step: str) -> Iterator[str]:
        return self.folder.damage(step)

    def forget(self, step: str, later: Sequence[str]) -> None:
        """Forget what depends on a step of the arm that was forgotten.

        Args:
            later: that step, and those of the arm that depend on it.
        """
        if self.mark and self.mark.facts["stage"] in later:
            self.folder.forget_all()
        elif step in self.steps():
            for each in later:
                self.folder.forget(each)

    def training_step(self, inputs: Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and dependencies of its step."""
        yield self.arm.intermediate(inputs).step(self.fraction)

    def scorings(self, inputs: Inputs) -> list[Scoring]:
        """None where there is no policy, or not yet."""
        if self.mark is None or self.none:
            return []
        return [Scoring(self, name, inputs) for name in self.benchmarks]

    def run(self, inputs: Inputs) -> bool:
        """Score it. Returns whether there was anything to do."""
        engine = cache(self._load)
        return any([scoring.run(engine) for scoring in self.scorings(inputs)])

    def model(self, inputs: Inputs) -> dict[str, str]:
        """Digests of the parts of the policy."""
        digests: dict[str, str] = self.folder.facts(CHECKPOINT)["model"]
        return digests

    def policy(self, engine: Callable[[], Engine], inputs: Inputs) -> Policy:
        return self.arm.policy(engine, inputs)

    def _load(self) -> Engine:
        """
        Raises:
            UserError: when the files of the policy were deleted or changed.
        """
        if not self.folder.whole(CHECKPOINT):
            raise UserError(
                f"{self.folder.path}: the checkpoint was deleted before it was scored: put it back, or train again: "
                f"--restart-from {self.folder.facts(CHECKPOINT)['stage']}"
            )
        self.folder.check(CHECKPOINT)
        (place,) = self.folder.checkpoints.iterdir()
        return self.arm.load(place)

    def spent(self) -> Ledger | None:
        """What the arm had spent when it had this policy; None where there is none."""
        facts = self.folder.facts(CHECKPOINT)
        return None if "none" in facts else Ledger.from_dict(facts["ledger"])

    def pairs(self) -> list[Prompt] | None:
        return self.arm.pairs()

    def example_files(self) -> dict[Path, str]:
        """Those of the whole training, so that a question is clean at all checkpoints or at none."""
        return self.arm.example_files()
