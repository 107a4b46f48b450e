"""Methods that earlier calls have finished in a run folder stay in its comparison."""

import json

from command_line import harness

from harness.files import store
from harness.testbed import prompts

SHORT = ("--budget", "updates=1", "--benchmark", "math", "--limit", 2, "--name", "mine")


def digests(folder):
    return {path: store.file_digest(path) for path in folder.rglob("*") if path.is_file()}


def rows(told):
    return [row["method"] for row in json.loads(told)["rows"]]


def test_a_finished_method_stays_beside_a_new_one(tmp_path, testbed_model_dir):
    store.write_jsonl(tmp_path / "pairs.jsonl", map(vars, prompts.preferences()[:100]))
    dpo = ("run", "-m", "dpo", "--preferences", "pairs.jsonl", "--set", "dpo.beta=0.3", "--json", *SHORT)
    pbaa = ("run", "-m", "pbaa", "--json", *SHORT)
    harness(*dpo, cwd=tmp_path)
    run = tmp_path / "results" / "runs" / "mine"
    trained = digests(run / "arms" / "dpo-seed0")
    assert rows(harness(*pbaa, cwd=tmp_path)) == ["base", "dpo", "pbaa"]
    assert digests(run / "arms" / "dpo-seed0") == trained
    assert rows(harness("table", run, "--json", cwd=tmp_path)) == ["base", "dpo", "pbaa"]
    assert "3 of 3 numbers verified" in harness("verify", run, cwd=tmp_path)
    kept = (run / "experiment.yaml").read_text()
    assert "beta: 0.3" in kept and "pairs.jsonl" in kept

    # the same call again has nothing to do; one with another budget for all has only its own method
    before = digests(run)
    assert rows(harness(*pbaa, cwd=tmp_path)) == ["base", "dpo", "pbaa"] and digests(run) == before
    told = json.loads(harness("run", "-m", "sft", "--json", *SHORT, "--budget", "updates=2", cwd=tmp_path))
    assert [row["method"] for row in told["rows"]] == ["base", "sft"]
    assert any("not in this table" in note and "dpo-seed0, pbaa-seed0" in note for note in told["notes"])
