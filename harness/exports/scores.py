"""Scores of a run's arms as lm-eval writes results, and as the hub reads evaluation results: a folder for each arm."""

from collections.abc import Sequence
from pathlib import Path

from harness import store
from harness.arm import Arm
from harness.benchmarks.base import Score, step_names
from harness.errors import UserError
from harness.exports import cards
from harness.faults import whole

FORMATS = ("lm-eval", "hub")


def export_scores(
    run: Path, form: str, output: Path, methods: Sequence[str] = (), seed: int | None = None, samples: bool = False
) -> Path:
    """Writes the scores of these arms, by default of all; the folder.

    Args:
        form: one of FORMATS.
        samples: lm-eval's form of every question and answer, too.

    Raises:
        UserError: when the run is not finished or has no such arm, or something is at `output` already.
    """
    from harness.exports import hub_results, lm_eval_results

    if form not in FORMATS:
        raise UserError(f"format {form!r} is not known: give {' or '.join(FORMATS)}")
    if samples and form != "lm-eval":
        raise UserError("samples are exported with --format lm-eval only")
    cards.check_free(output)
    first = cards.arm_of(run, "base", 0).experiment
    seeds = range(first.seeds) if seed is None else [seed]
    arms = [cards.arm_of(run, method, each) for method in methods or first.arms() for each in seeds]
    with whole(output.resolve()) as folder:
        for arm in arms:
            place = folder / arm.folder.path.name
            place.mkdir(parents=True)
            if form == "hub":
                hub_results.write(arm, place)
            else:
                lm_eval_results.write(arm, place, samples)
    return output


def scores_of(arm: Arm) -> dict[str, Score]:
    """Of each benchmark that the arm has a score of, as the steps left them.

    Raises:
        UserError: when one is not finished, or its file was changed.
    """
    found = {}
    for name in arm.benchmarks:
        cards.finished(arm, step_names(name)[1])
        if (file := arm.folder / "scores" / f"{name}.json").exists():  # else it was left out
            found[name] = Score(**store.read_json(file))
    return found
