"""What a benchmark inherits unless it says otherwise."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.base import Judging, NoOptions, Questions, Settings
from harness.progress import Advance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.judges.base import Judge
    from harness.types import Prompt


class BenchmarkDefaults:
    """No judge, no pairs, no log-probabilities, one turn, independent questions, no files outside the data folder.

    sections: a field of the questions; --limit draws a sample in proportion to its values.
    """

    needs_judge: bool = False
    needs_pairs: bool = False
    needs_logprobs: bool = False
    turns: int = 1
    sections: str | None = None
    Options: type = NoOptions

    def resources(self, data_dir: Path) -> dict[str, Path]:
        """Name -> file that `load` finds outside the data folder; a finished run is known by them without loading."""
        return {}

    def clusters(self, items: list[Any]) -> dict[str, str]:
        """Question id -> cluster, for questions that depend on each other (they share a prompt, a passage, a subject):
        a cluster is one observation in every interval and test."""
        return {}

    def pairs(self, own: "Sequence[Prompt] | None", settings: Settings) -> "list[Prompt]":
        """The pairs that a benchmark with needs_pairs trains on, given those that the policy was trained on."""
        return []

    def judge(
        self, items: Questions[Any], samples: list[Any], judge: "Judge", judging: Judging, advance: Advance | None
    ) -> list[Any]:
        """Rows of judgments, for a benchmark with needs_judge."""
        return []
