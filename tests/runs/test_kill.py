"""Runs that are killed at random moments and resumed: the same bytes in the end, and little done twice."""

import random
import sys

import pytest
from killed_runs import NAME, Run, differences, done_twice, kill_and_resume

SHORT, SHORT_KILLS = ("--method", "sso", "--budget", "2e11", "--limit", "24", "--checkpoints", "0.3,0.9"), 2
SHORT_TWICE = 0.3  # of its work, at most: a batch of 128 completions is 15 % of it


def test_killed_runs_end_with_the_same_bytes(tmp_path, testbed_model_dir):
    undisturbed, killed = Run(tmp_path / "a", SHORT), Run(tmp_path / "b", SHORT)
    undisturbed.finish()
    hits = kill_and_resume(killed, undisturbed, SHORT_KILLS, random.Random(0))
    assert hits.total() == SHORT_KILLS
    assert not differences(killed, undisturbed)
    assert 0 < done_twice(killed, undisturbed) < SHORT_TWICE


def test_a_training_that_has_ended_is_not_done_again_for_want_of_its_mark(tmp_path, testbed_model_dir, monkeypatch):
    from harness.experiment.options import Experiment
    from harness.runs import run as runner
    from harness.stages import train as pipeline
    from harness.training import state
    from harness.training.trainer import PreferenceTrainer

    monkeypatch.setattr(state, "SHORTEST", 0.0)
    monkeypatch.setattr(state, "SHARE", float("inf"))  # a state after every update
    experiment = Experiment(methods=("dpo",), benchmarks=("reward-bench",), budget="1e11", limit=8, name=NAME)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "stage_health", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            runner.run(experiment, tmp_path)
    passes, compute_loss = [], PreferenceTrainer.compute_loss
    monkeypatch.setattr(
        PreferenceTrainer, "compute_loss", lambda self, *args, **kw: passes.append(1) or compute_loss(self, *args, **kw)
    )
    runner.run(experiment, tmp_path)
    assert len(passes) == 1  # of the update after the last state
