"""One audit with its folder: judge, labels, report. The judge's replies are kept there, so an audit can be resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import RunFolder
from harness.files.marks import Folder
from harness.judge_audit.audit import audit
from harness.judge_audit.chosen import check_given, folder_name, load_chosen
from harness.judge_audit.labels import LabelSet, load_sets, read_labels
from harness.runs.judge_choice import judged_by_rewards, only_compares
from harness.signals import stoppable

REPORT = "audit.json"


def run_audit(
    experiment: Experiment,
    results: Path,
    data_dir: Path,
    labels: Path | None,
    names: Sequence[str],
    limit: int,
    seed: int,
    own: Sequence[str],
) -> dict[str, Any]:
    """Return the report of `audit`, with the "absent" sets; it is also written to audits/JUDGE/audit.json.

    Args:
        labels: a user's own labels, instead of the sets of `data_dir`.
        names: sets of `data_dir`; empty means all that are there.

    Raises:
        UserError: for no judge, unusable labels, or a judge that cannot be reached.
        Stopped: for SIGINT and SIGTERM.
    """
    check_given(experiment)
    if labels and names:
        raise UserError("give --labels or --label-sets, not both")
    sets, absent = ([read_labels(labels)], []) if labels else load_sets(data_dir, names)
    if judged_by_rewards(experiment):
        _check_pairs(experiment, sets)
    folder = RunFolder(Folder(results).folder("audits").folder(folder_name(experiment)).path)
    with stoppable(folder.path), store.only_writer(folder.path):
        judge = load_chosen(experiment, folder)
        report = audit(judge, sets, limit=limit, seed=seed, rejudge=experiment.rejudge, own=own)
        report["absent"] = absent
        store.write_json(folder / REPORT, report)
    return report


def _check_pairs(experiment: Experiment, sets: Sequence[LabelSet]) -> None:
    """Check that a reward model can judge the sets: that all are pairs."""
    if rated := [labels.name for labels in sets if not labels.has_pairs]:
        pairs = ",".join(labels.name for labels in sets if labels.has_pairs)
        raise UserError(
            f"{', '.join(rated)} holds ratings, and {only_compares(experiment)}: "
            f"give {f'--label-sets {pairs}' if pairs else 'labels of pairs'}"
        )
