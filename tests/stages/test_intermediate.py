"""Which policy an arm has at a fraction of its budget, from what its stages spent."""

from dataclasses import dataclass

import pytest

from harness.budget import Ledger
from harness.errors import UserError
from harness.files.folders import ArmFolder
from harness.methods.base import Stage
from harness.stages.intermediate import Intermediate, policy_stages, reached
from harness.training.examples import ReferenceSync, TrainingOptions

CAP = 1000


@dataclass
class Objective:
    sync: ReferenceSync | None = None


def stage(name, start="current", sync=None):
    return Stage(name, 0.5, None, None, Objective(sync), TrainingOptions(), start=start)


SSO = [stage("generator", "base"), stage("policy", "base")]
ITERATED = [stage("first"), stage("second")]


def test_the_update_that_reaches_a_fraction():
    # after each update: 230, 260, 290; the start, 200, is before the training
    assert reached([0.2, 0.201, 0.23, 0.231, 0.29, 0.291], CAP, 200, [30, 30, 30]) == {
        0.201: 1,
        0.23: 1,
        0.231: 2,
        0.29: 3,
    }


def test_the_stages_that_train_the_policy():
    assert [each.name for each in policy_stages(SSO)] == ["policy"]
    assert [each.name for each in policy_stages(ITERATED)] == ["first", "second"]
    assert policy_stages([]) == []


def finished(tmp_path, stages, fractions, spent):
    """An arm whose stages are finished. spent: (before the first update, after the last one) of each stage."""
    folder, ledger = ArmFolder(tmp_path), Ledger(CAP)
    for each, (before, after) in zip(stages, spent, strict=True):
        role = "generate"
        ledger.charge(role, before - ledger.flops)
        sync = each.objective.sync is not None
        ledger.charge("train", (after - before) / (2 if sync else 1), updates=4)
        if sync:
            ledger.charge("reference", (after - before) / 2)
        place = folder.checkpoint(each.name)
        place.mkdir(parents=True)
        (place / "config.json").write_text(f'"{each.name}"')
        folder.finish(each.name, {}, [place], ledger=ledger.as_dict())
    return Intermediate(folder, "arm", fractions, CAP, stages, lambda each: {"stage": each.name})


def settled(intermediate):
    """Fraction -> why there is no policy, or (the policy, its update, FLOPs)."""
    assert intermediate.settle() and not intermediate.settle()
    intermediate.check()
    found = {}
    for fraction in intermediate.fractions:
        folder = intermediate.folder.along(fraction)
        facts = folder.facts("checkpoint")
        if "none" in facts:
            found[fraction] = facts["none"]
        else:
            (config,) = folder.checkpoints.glob("*/config.json")
            found[fraction] = (config.read_text(), facts["update"], facts["ledger"]["total"]["flops"])
    return found


def test_no_policy_before_its_first_update(tmp_path, capsys):
    arm = finished(tmp_path, SSO, [0.1, 0.4, 0.6, 0.95], [(300, 400), (600, 900)])
    found = settled(arm)
    assert found[0.1] == found[0.4] == "no policy had been trained yet, only the stage generator"
    assert found[0.6] == "no policy had been trained yet, as the stage policy was still being prepared"
    assert found[0.95] == "the arm spent less, so it is the final policy"
    assert "arm: no checkpoint at 0.1 of the cap: no policy had been trained yet" in capsys.readouterr().err


@pytest.mark.parametrize("sync", [None, ReferenceSync(1, 1.0)])
def test_between_two_trainings_it_is_the_policy_of_the_first(tmp_path, sync):
    stages = [stage("first", sync=sync), stage("second", sync=sync)]
    found = settled(finished(tmp_path, stages, [0.1, 0.45, 0.7], [(200, 400), (700, 900)]))
    assert found[0.1] == "no policy had been trained yet, as the stage first was still being prepared"
    assert found[0.45] == found[0.7] == ('"first"', 4, 400)


@pytest.mark.parametrize(("fraction", "again"), [(0.3, "first"), (0.4, "first"), (0.8, "second")])
def test_a_fraction_that_an_update_reached_needs_the_training_again(tmp_path, fraction, again):
    arm = finished(tmp_path, ITERATED, [fraction], [(200, 400), (700, 900)])
    for work in (arm.check, arm.settle):
        with pytest.raises(UserError, match=rf"at {fraction} of the cap. Leave out .* again: --restart-from {again}$"):
            work()


def test_a_policy_that_was_deleted_is_told(tmp_path):
    arm = finished(tmp_path, ITERATED, [0.5], [(200, 400), (700, 900)])
    (arm.folder.checkpoint("first") / "config.json").unlink()
    with pytest.raises(UserError, match="policy of stage first, which was deleted.*--restart-from first"):
        arm.settle()


def test_a_changed_dependency_is_refused(tmp_path):
    arm = finished(tmp_path, ITERATED, [0.5], [(200, 400), (700, 900)])
    arm.settle()
    changed = Intermediate(arm.folder, "arm", [0.5], CAP, ITERATED, lambda each: {"stage": each.name, "seed": 1})
    with pytest.raises(UserError, match="step checkpoint was computed with seed=null"):
        changed.check()
