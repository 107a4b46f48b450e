"""The questions of a finished run, for those who show or export them."""

from pathlib import Path
from typing import Any

from harness.benchmarks.base import Settings
from harness.benchmarks.files import with_suite_settings
from harness.benchmarks.questions import load_questions
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs.inputs import data_folder


def read_questions(experiment: Experiment, run: Path, benchmark: str) -> dict[str, dict[str, Any]]:
    """Id -> question of a benchmark as a run asked them; empty where their files are gone.

    Args:
        run: the run folder.
    """
    folder = data_folder(experiment, run)
    settings = Settings(limit=experiment.limit, options=experiment.benchmark_options(benchmark))
    try:
        questions = load_questions(
            experiment.targets("benchmark")[benchmark], folder, with_suite_settings(folder, settings)
        )
    except UserError:
        return {}
    return {str(question["id"]): question for question in questions}
