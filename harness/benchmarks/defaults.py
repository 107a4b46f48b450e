"""What a benchmark inherits unless it says otherwise: all that a run, reports, exports and estimates ask of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.base import BenchmarkSize, HubTask, Judging, NoOptions, Questions, Settings
from harness.files.data_files import DataFile, HubRows
from harness.progress import Advance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.judges.base import Judge
    from harness.types import Prompt


class BenchmarkDefaults:
    """No judge, no pairs, no log-probabilities, one turn, independent questions, no files outside the data folder.

    A benchmark inherits this class and overrides what differs. It must have `name`, `title`, `load`, `answer` and
    `score` itself (`harness.benchmarks.Benchmark`).

    compares: whether its judge compares two replies, which a reward model can do.
    sections: a field of the questions; --limit draws a sample in proportion to its values.
    scores_classifiers: whether it can score a sequence classifier, which writes no text.
    packages: distributions whose versions answers and scores depend on.
    data_files: what `harness data fetch` downloads.
    size, testbed_size: of the real files and of the testbed's suite, for `harness estimate`; None leaves the
        benchmark out of estimates.
    further: field of a score's details -> what reports call it, for numbers that people should see beside the score.
    parts: the same for fields with a value per part of the benchmark, such as a category.
    question_fields: the fields with what is asked, in which contamination by training texts is looked for.
    """

    needs_judge: bool = False
    compares: bool = False
    needs_pairs: bool = False
    needs_logprobs: bool = False
    turns: int = 1
    sections: str | None = None
    scores_classifiers: bool = False
    packages: tuple[str, ...] = ()
    data_files: tuple[DataFile | HubRows, ...] = ()
    size: BenchmarkSize | None = None
    testbed_size: BenchmarkSize | None = None
    further: Mapping[str, str] = {}
    parts: Mapping[str, str] = {}
    question_fields: tuple[str, ...] = ("prompt",)
    Options: type = NoOptions

    def hub_task(self, options: Any) -> HubTask | None:
        """The data set of the hub that the questions are for these options; None if there is none."""
        return None

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

    def verdicts(self, judgment: Any) -> list[tuple[str, str]] | None:
        """Each verdict of a judgment in a few words, with the text of the judge; None shows the fields of the row. A
        row with an "error" is not asked for."""
        return None

    def is_open(self, judgment: Any) -> bool:
        """Whether a judgment lacks a verdict; one that failed always does."""
        return False
