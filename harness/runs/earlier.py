"""Methods that earlier calls finished in a run folder; a call for other methods keeps them in the comparison.

`harness run --method dpo --name mine`, then `harness run --method sso --name mine`: a table of both.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from harness.benchmarks.base import step_names
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.folders import RunFolder
from harness.results.folder import read_experiment
from harness.runs.arm import Arm
from harness.runs.inputs import Inputs

DATA = {"prompts": False, "preferences": True}  # options with training data -> whether its rows are labelled


def with_earlier(experiment: Experiment, root: RunFolder) -> Experiment:
    """Add the methods of the run folder that are finished for the seeds and benchmarks of the experiment.

    They keep their options, and the training data that they alone use. `without_outdated` checks whether everything
    else they depend on is the same.
    """
    known = _known(root)
    if known is None or experiment.model_url:
        return experiment
    mine = experiment.arms()
    finished = {arm for arm in known.arms() if arm not in mine and _is_finished(experiment, known, arm, root)}
    if not finished:
        return experiment
    entries = known.entries("method") | experiment.entries("method")
    names = [arm for arm in entries if arm in finished or arm in mine]
    changes = {
        "methods": tuple(entries[arm] for arm in names),
        "options": experiment.options | {arm: known.options[arm] for arm in finished if arm in known.options},
        "search": experiment.search | {arm: known.search[arm] for arm in finished if arm in known.search},
        **{name: getattr(known, name) for name, labelled in DATA.items() if not _uses(experiment, labelled)},
    }
    return replace(experiment, **changes)


def without_outdated(experiment: Experiment, mine: Sequence[str], inputs: Inputs, root: RunFolder) -> Experiment:
    """Remove earlier methods that depend on something else than this experiment, and print why.

    Args:
        mine: the requested methods, which stay.
    """
    outdated: dict[str, str] = {}
    for arm in experiment.arms():
        if arm not in mine:
            try:
                for seed in range(experiment.seeds):
                    Arm(experiment, arm, seed, root).check(inputs)
            except UserError as error:
                outdated[arm] = str(error).partition(". ")[0]  # without the remedy
    for arm, reason in outdated.items():
        print(f"{arm}, which this folder has too, is left out: {reason}", file=sys.stderr)
    return replace(
        experiment,
        methods=tuple(entry for arm, entry in experiment.entries("method").items() if arm not in outdated),
        options={name: changes for name, changes in experiment.options.items() if name not in outdated},
        search={name: limits for name, limits in experiment.search.items() if name not in outdated},
    )


def _known(root: RunFolder) -> Experiment | None:
    if not root.experiment.exists():
        return None
    try:
        return read_experiment(root.path)
    except UserError as error:  # such as a method whose package was removed
        print(f"finished methods of {root.path} are left out: {error}", file=sys.stderr)
        return None


def _is_finished(experiment: Experiment, known: Experiment, arm: str, root: RunFolder) -> bool:
    for seed in range(experiment.seeds):
        stored = Arm(known, arm, seed, root)
        steps = [*stored.training_steps(), *chain.from_iterable(map(step_names, experiment.benchmark_names()))]
        if not all(stored.folder.mark(step) for step in steps):
            return False
    return True


def _uses(experiment: Experiment, labelled: bool) -> bool:
    stages = [experiment.stages(arm) for arm in experiment.arms()]
    return any(stage.labelled is labelled for each in stages for stage in each)
