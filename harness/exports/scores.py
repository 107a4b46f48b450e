"""Scores of a run's arms as lm-eval writes results, and as the hub reads evaluation results: a folder for each arm."""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.exports.arms import arm_of, check_free
from harness.files.disk import whole

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
    check_free(output)
    first = arm_of(run, "base", 0).experiment
    seeds = range(first.seeds) if seed is None else [seed]
    arms = [arm_of(run, method, each) for method in methods or first.arms() for each in seeds]
    with whole(output.resolve()) as folder:
        for arm in arms:
            place = folder / arm.folder.path.name
            place.mkdir(parents=True)
            if form == "hub":
                hub_results.write(arm, place)
            else:
                lm_eval_results.write(arm, place, samples)
    return output
