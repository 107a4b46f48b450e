"""Export scores in lm-eval's format, or as evaluation results of the hub: one folder per arm."""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.exports.arms import arm_of, check_free
from harness.files.disk import whole

FORMATS = ("lm-eval", "hub")


def export_scores(
    run: Path, form: str, output: Path, methods: Sequence[str] = (), seed: int | None = None, samples: bool = False
) -> Path:
    """Write the scores of these arms.

    Args:
        form: one of FORMATS.
        methods, seed: the arms; by default all.
        samples: whether to write each question and answer too, in lm-eval's format.

    Returns: the folder.

    Raises:
        UserError: when the run is not finished or has no such arm, or `output` already exists.
    """
    from harness.exports import hub_results, lm_eval_results

    if form not in FORMATS:
        raise UserError(f"unknown format {form!r}: give {' or '.join(FORMATS)}")
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
