"""A method that cannot be trained leaves the arms of the others as they would be without it."""

import pytest
from command_line import harness

OPTIONS = ("--budget", "6e10", "--benchmark", "math", "--limit", "3", "--name", "x")
UNREADABLE = (  # the embedded model writes no judgment to this prompt
    *("--set", "self-rewarding.judge_prompt=additive", "--set", "self-rewarding.judge_max_new_tokens=200"),
    *("--set", "self-rewarding.batch_size=1", "--set", "self-rewarding.micro_batch_size=1"),
)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_others_go_on(tmp_path, jobs, testbed_model_dir):
    command = ("run", *OPTIONS, "--jobs", jobs)
    told = harness(*command, "--method", "self-rewarding,pbaa", *UNREADABLE, cwd=tmp_path, code=2)
    reason = (
        "error: self-rewarding seed 0: stage 'iteration-1' made no training example (fewer than two rated candidates"
    )
    last = told.strip().splitlines()[-1]
    assert last.startswith(reason) and "unparsed judgments" in last
    assert last.endswith("All else is finished: the same command without self-rewarding compares the others")
    arms = tmp_path / "results/runs/x/arms"
    assert (arms / "pbaa-seed0/scores/math.json").exists() and (arms / "base-seed0/scores/math.json").exists()
    trained = (arms / "pbaa-seed0/ledger.json").stat()
    assert "| pbaa " in harness(*command, "--method", "pbaa", cwd=tmp_path)
    assert (arms / "pbaa-seed0/ledger.json").stat().st_mtime_ns == trained.st_mtime_ns
