"""Arms that cannot be trained: the others of a run go on, and the run ends with the reasons."""

import sys
from collections.abc import Sequence

from harness.errors import CannotTrain, UserError
from harness.runs.arm import Arm


class Untrained:
    """The arms that cannot be trained, with the reasons."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._methods: set[str] = set()

    def add(self, arm: Arm, failure: UserError) -> None:
        """Take an arm that cannot be trained, and say so.

        Raises:
            UserError: any other failure, with the arm's name.
        """
        if not isinstance(failure, CannotTrain):
            raise UserError(f"{arm.label}: {failure}") from failure
        self._reasons[arm.label] = str(failure)
        self._methods.add(arm.name)
        print(f"{arm.label}: {failure}\n  other arms are not affected", file=sys.stderr, flush=True)

    def check(self, arms: Sequence[Arm]) -> None:
        """
        Raises:
            CannotTrain: when there is an arm that cannot be trained.
        """
        if not self._reasons:
            return
        told = "; ".join(f"{label}: {reason}" for label, reason in self._reasons.items())
        others = {arm.name for arm in arms} - self._methods
        left = (
            f". All else is finished: the same command without {', '.join(sorted(self._methods))} compares the others"
        )
        raise CannotTrain(told + (left if others else ""))
