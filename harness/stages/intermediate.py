"""Checkpoints along the way: the policy as it was when its arm had spent given fractions of the cap.

A fraction that an update reaches is the policy after that update. One that the arm reaches between two trainings of the
policy (self-rewarding samples its next examples then) is the policy that it had at that time. There is none where no
policy had been trained yet, or where the last update of all reaches the fraction: that is the final policy.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.budget import Ledger
from harness.engines.base import TrainableEngine
from harness.errors import UserError
from harness.files import store
from harness.files.disk import whole
from harness.files.folders import CHECKPOINT, ArmFolder
from harness.methods.base import Stage
from harness.models import fingerprints
from harness.training.examples import sync_of

if TYPE_CHECKING:
    from harness.training.base import Training
    from harness.training.dataset import ExampleData

FINAL = "it is the final policy"


def policy_stages(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages that train the policy: the last one, and those that it continues from."""
    starts = [index for index, stage in enumerate(stages) if index == 0 or stage.start == "base"]
    return stages[starts[-1] :] if starts else []


def reached(fractions: Sequence[float], cap: float, spent: float, updates: Sequence[float]) -> dict[float, int]:
    """The update of a training that reaches each fraction of the cap, counted from 1. Fractions that were reached
    before the training, or that it does not reach, are left out.

    Args:
        spent: FLOPs before the first update.
        updates: FLOPs of each update.

    >>> reached([0.1, 0.5, 0.9], 100, 20, [25, 25, 10])
    {0.5: 2}
    """
    totals = list(accumulate(updates, initial=spent))
    found: dict[float, int] = {}
    for fraction in fractions:
        if totals[0] < fraction * cap <= totals[-1]:
            found[fraction] = next(update for update, flops in enumerate(totals) if flops >= fraction * cap)
    return found


@dataclass(frozen=True)
class Intermediate:
    """The checkpoints of an arm.

    folder: of the arm. label: its name in messages. cap: its budget in FLOPs.
    depends_on: what the training of a finished stage depends on.
    """

    folder: ArmFolder
    label: str
    fractions: Sequence[float]
    cap: float
    stages: Sequence[Stage]
    depends_on: Callable[[Stage], dict[str, Any]]

    def forget_outdated(self, stage: Stage) -> None:
        """Forget the checkpoints of a training that was interrupted and now begins with other options."""
        for fraction in self.fractions:
            folder = self.folder.along(fraction)
            mark = folder.mark(CHECKPOINT)
            depends_on = self._depends_on(fraction, stage)
            if mark and mark.facts["stage"] == stage.name and mark.key != store.digest(depends_on):
                folder.forget_all()

    def waiting(self) -> list[float]:
        """The fractions whose step is not finished."""
        return [each for each in self.fractions if self.folder.along(each).mark(CHECKPOINT) is None]

    def keep(self, fraction: float, stage: Stage, policy: Path, update: int, ledger: Ledger) -> None:
        """Copy the policy of a fraction from a folder into that of the checkpoint, and finish its step.

        Args:
            stage: during which the fraction was reached.
            update: of the stage that trained it.
            ledger: what the arm had spent when it had this policy.
        """
        folder = self.folder.along(fraction)
        place = folder.checkpoint(policy_stages(self.stages)[-1].name)
        with whole(place) as copied:
            shutil.copytree(policy, copied)
        facts = {"update": update, "ledger": ledger.as_dict(), "model": fingerprints.of_model(place)}
        folder.finish(CHECKPOINT, self._depends_on(fraction, stage), [place], stage=stage.name, **facts)

    def leave_out(self, fraction: float, stage: Stage, reason: str) -> None:
        """Finish the step of a fraction that has no checkpoint."""
        self.folder.along(fraction).finish(
            CHECKPOINT, self._depends_on(fraction, stage), [], stage=stage.name, none=reason
        )
        print(f"{self.label}: no checkpoint at {fraction:g} of the cap: {reason}", file=sys.stderr)

    def step(self, fraction: float) -> tuple[str, dict[str, Any]]:
        """Name and dependencies of the step of a fraction (as `harness.stages.train.stage_steps`)."""
        mark = self.folder.along(fraction).mark(CHECKPOINT)
        stage = next((each for each in self.stages if mark and mark.facts["stage"] == each.name), None)
        return CHECKPOINT, self._depends_on(fraction, stage)

    def _depends_on(self, fraction: float, stage: Stage | None) -> dict[str, Any]:
        return {**(self.depends_on(stage) if stage else {}), "fraction": fraction}

    def check(self) -> None:
        """Check the fractions of an arm whose training is finished.

        Raises:
            UserError: when a checkpoint was made from something that has changed since, or is missing and only another
                training would give it.
        """
        for fraction in self.fractions:
            self.check_at(fraction)

    def check_at(self, fraction: float) -> None:
        """`check` for one fraction."""
        if not self.folder.along(fraction).finished(*self.step(fraction)):
            self._outside(fraction)

    def settle(self) -> bool:
        """Finish the steps of fractions that were not reached by an update, once all stages are finished. Returns
        whether there was one.

        Raises:
            UserError: as `check`.
        """
        waiting = self.waiting()
        for fraction in waiting:
            stage, found = self._outside(fraction)
            if isinstance(found, str):
                self.leave_out(fraction, stage, found)
            else:
                after = self._ledger(found)
                update = after.total.updates - self._ledger_before(found).total.updates
                self.keep(fraction, stage, self.folder.checkpoint(found.name), update, after)
        return bool(waiting)

    def _outside(self, fraction: float) -> tuple[Stage, Stage | str]:
        """The stage during which a fraction was reached, and the one whose policy the arm had then, or why there is
        none; for fractions that no update reached.

        Raises:
            UserError: when an update did, or the policy was deleted.
        """
        target, policy = fraction * self.cap, policy_stages(self.stages)
        last = self.stages[-1]
        stage = next((each for each in self.stages if self._ledger(each).flops >= target), last)
        if self._ledger(stage).flops < target:
            return last, f"the arm spent less, so {FINAL}"
        if stage not in policy:
            return stage, f"no policy had been trained yet, only the stage {stage.name}"
        if self._ledger_before(stage).flops < target:
            raise UserError(self._again(f"was trained without a checkpoint at {fraction:g} of the cap", stage))
        if stage is policy[0]:
            return stage, f"no policy had been trained yet, as the stage {stage.name} was still being prepared"
        before = policy[policy.index(stage) - 1]
        if not self.folder.whole(before.name):
            raise UserError(self._again(f"needs its policy of stage {before.name}, which was deleted", before))
        return stage, before

    def _again(self, what: str, stage: Stage) -> str:
        return (
            f"{self.folder.path}: {what}. Leave out --checkpoints, choose another folder (--name), or train again: "
            f"--restart-from {stage.name}"
        )

    def _ledger(self, stage: Stage) -> Ledger:
        """What had been spent when a stage was finished."""
        return Ledger.from_dict(self.folder.facts(stage.name)["ledger"])

    def _ledger_before(self, stage: Stage) -> Ledger:
        """What had been spent before the first update of a finished stage."""
        after, place = self._ledger(stage), self.stages.index(stage)
        earlier = self._ledger(self.stages[place - 1]).roles if place else {}
        during = ("train", "reference") if sync_of(stage.objective) else ("train",)
        roles = {role: earlier.get(role) if role in during else spent for role, spent in after.roles.items()}
        return replace(after, roles={role: spent for role, spent in roles.items() if spent})


class DuringTraining:
    """The fractions of the budget that the updates of one training reach, those that have no checkpoint yet.

    snapshots: the updates, but for the last one, after which the policy is the result of the training.
    """

    def __init__(
        self,
        intermediate: Intermediate,
        stage: Stage,
        start: TrainableEngine,
        data: "ExampleData",
        training: "Training",
        ledger: Ledger,
    ) -> None:
        """
        Args:
            ledger: what was spent before the first update.
        """
        from harness.training.trainer import flops_by_update

        self._intermediate, self._stage, self._start = intermediate, stage, start
        self._data, self._training, self._before = data, training, ledger.as_dict()
        self._updates: dict[float, int] = {}
        self._last = 0
        intermediate.forget_outdated(stage)
        waiting = intermediate.waiting()
        if waiting and stage in policy_stages(intermediate.stages):
            updates = flops_by_update(ledger, start, data, stage.objective, training)
            self._updates, self._last = reached(waiting, intermediate.cap, ledger.flops, updates), len(updates)
        self.snapshots = sorted({update for update in self._updates.values() if update < self._last})

    def keep(self, result: Path) -> None:
        """Keep the checkpoints.

        Args:
            result: the model after the last update.
        """
        from harness.training.copies import snapshot
        from harness.training.trainer import charge_updates

        state, is_last = Path(self._training.args.output_dir), self._stage is self._intermediate.stages[-1]
        for fraction, update in self._updates.items():
            if update == self._last and is_last:
                self._intermediate.leave_out(fraction, self._stage, f"the last update reached it, so {FINAL}")
                continue
            spent = Ledger.from_dict(self._before)
            charge_updates(spent, self._start, self._data, self._stage.objective, self._training, update)
            policy = result if update == self._last else snapshot(state, update)
            self._intermediate.keep(fraction, self._stage, policy, update, spent)
