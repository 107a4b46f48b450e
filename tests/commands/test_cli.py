"""The command line as people use it: help, errors, whole runs on the embedded model."""

import json
import shutil
import subprocess
import sys

import pytest
from command_line import SMALL, harness


@pytest.fixture(scope="module")
def finished(testbed_model_dir, tmp_path_factory):
    """A small finished run of sso and dpo, its folder's parent and its table."""
    place = tmp_path_factory.mktemp("cli")
    table = json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--json", cwd=place))
    return place, table


def test_what_hangs_together_goes_from_the_questions_to_the_table(finished):
    place, table = finished
    for column in table["benchmarks"]:
        score = json.loads((place / f"results/runs/small/arms/base-seed0/scores/{column['name']}.json").read_text())
        shared = score["clusters"]
        assert column["clusters"] == len(score["values"]) - len(shared) + len(set(shared.values()))


@pytest.mark.parametrize(
    "command",
    [
        *((), ("run",), ("eval",), ("table",), ("report",), ("figure",), ("check",), ("verify",), ("show",)),
        *(("estimate",), ("list",), ("schema",), ("testbed", "build"), ("data", "fetch"), ("power",), ("simulate",)),
    ],
)
def test_help_has_examples(command, tmp_path):
    text = " ".join(harness(*command, "--help", cwd=tmp_path).split())
    assert "Usage" in text
    assert f"harness {' '.join(command)}".strip() in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys, harness.cli\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'lm_eval', 'alpaca_eval', 'openai'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "harness", "table", "nowhere"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: nowhere is not a run folder")


def test_list_names_all(tmp_path):
    names = json.loads(harness("list", "--json", cwd=tmp_path))
    assert set(names["methods"]) >= {"base", "sso", "sso-v1", "pbaa", "dpo", "ipo", "self-rewarding", "sft"}
    assert set(names["benchmarks"]) >= {"mt-bench", "alpaca-eval", "reward-bench", "math"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--method", "ssoo"), "unknown method 'ssoo': did you mean 'sso'?"),
        (("run", "--method", "SSO"), "unknown method 'SSO': did you mean 'sso'?"),
        (("run", "--budget", "1e6"), "too small for one update of 16 examples in stage 'generator'"),
        (("run", "--prompts", "bad.jsonl"), "bad.jsonl:2: not JSON"),
        (("run", "--data-dir", "nowhere", "--judge-url", "http://127.0.0.1:9", "--judge-model", "m"), "data fetch"),
        (("run", "--data-dir", "nowhere"), "need a judge: give --judge-model"),
        (("run", "--model", "nowhere", "--prompts", "testbed"), "no model at 'nowhere'"),
        (("run", "--model", "nowhere"), "sso would train nowhere on the testbed's prompts: give --prompts FILE"),
        (("run", "-m", "dpo", "--model", "nowhere"), "--preferences FILE, or --preferences testbed"),
        (("run", "-m", "dpo", "--prompts", "bad.jsonl"), "--prompts is not used by the methods base, dpo"),
        (("run", "--preferences", "bad.jsonl"), "--preferences is not used by the methods base, sso"),
        (("run", "--config", "nowhere.yaml"), "no configuration file at nowhere.yaml"),
        (("table", "nowhere"), "is not a run folder"),
        (("data", "fetch", "mtbench"), "did you mean 'mt-bench'?"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(arguments, message, tmp_path, testbed_model_dir):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "What?"}\n{"prompt": \n')
    told = harness(*arguments, cwd=tmp_path, code=2)
    assert told.startswith("error: ") and told.count("\n") == 1
    assert message in told
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_list_in_several_words_is_told_of_commas(tmp_path):
    told = " ".join(harness("run", "--method", "sso", "dpo", cwd=tmp_path, code=2).replace("│", " ").split())
    assert "unexpected extra argument" in told and "(--method sso,dpo)" in told


def test_a_run_goes_by_its_name(finished):
    place, _ = finished
    by_path = harness("table", "results/runs/small", "--json", cwd=place)
    assert harness("table", "small", "--json", cwd=place) == by_path


def test_the_table_has_every_method_within_the_budget(finished):
    place, table = finished
    rows = {row["method"]: row for row in table["rows"]}
    assert list(rows) == ["base", "sso", "dpo"]
    for name in ("sso", "dpo"):
        assert 0.95 <= rows[name]["spent"]["share_min"] <= rows[name]["spent"]["share_max"] <= 1
        assert rows[name]["ranked"]
    for row in rows.values():
        assert set(row["cells"]) == {"mt-bench", "alpaca-eval", "reward-bench", "math"}
        assert row["cells"]["mt-bench"]["questions"] == 24


def test_the_ledger_agrees_with_the_plan(finished, tmp_path):
    place, _ = finished
    planned = json.loads(harness("estimate", "--method", "sso,dpo", "--budget", "1.2e11", "--json", cwd=tmp_path))
    for name in ("sso", "dpo"):
        ledger = json.loads((place / f"results/runs/small/arms/{name}-seed0/ledger.json").read_text())
        assert ledger["total"]["flops"] == pytest.approx(planned["methods"][name]["flops"], rel=0.1)


def test_the_folder_tells_what_happened(finished):
    place, _ = finished
    run = place / "results/runs/small"
    files = {"experiment.yaml", "versions.json", "index.json", "table.md", "table.json", ".lock"}
    assert files | {"arms", "data", "reference"} == {path.name for path in run.iterdir()}
    for name in ("experiment.yaml", "versions.json", "table.md", "table.json"):
        assert "harness run --name small --method sso,dpo" in (run / name).read_text()
    arm = run / "arms/sso-seed0"
    pairs = [json.loads(line) for line in (arm / "preferences/policy.jsonl").read_text().splitlines()]
    assert {"prompt", "good_principle", "bad_principle", "chosen", "rejected", "sequences"} <= set(pairs[0])
    assert (arm / "checkpoints/policy/model.safetensors").exists()
    assert len((arm / "samples/math.jsonl").read_text().splitlines()) == 24
    assert len((arm / "judgments/mt-bench.jsonl").read_text().splitlines()) == 48
    assert json.loads((arm / "health/policy.json").read_text())["examples"] == len(pairs)


def test_a_second_call_reuses_all(finished):
    place, table = finished
    arms = place / "results/runs/small/arms"
    before = {path: path.stat().st_mtime_ns for path in arms.rglob("*")}
    again = json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--json", cwd=place))
    assert again == table
    assert {path: path.stat().st_mtime_ns for path in arms.rglob("*")} == before


def test_a_finished_run_is_seen_without_its_models(finished):
    place, _ = finished
    code = (
        "import sys\nfrom harness.cli import main\nsys.argv = ['harness', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "run", "--method", "sso,dpo", *SMALL], cwd=place, check=True)


def test_what_is_deleted_is_made_again(finished, tmp_path):
    place, table = finished
    shutil.copytree(place / "results", tmp_path / "results")
    arm = tmp_path / "results/runs/small/arms/dpo-seed0"
    files = [arm / name for name in ("scores/math.json", "samples/math.jsonl")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    again = json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--json", cwd=tmp_path))
    assert [row["cells"] for row in again["rows"]] == [row["cells"] for row in table["rows"]]
    assert [file.read_bytes() for file in files] == before


def test_the_table_is_computed_from_stored_scores(finished):
    place, table = finished
    assert json.loads(harness("table", "results/runs/small", "--json", cwd=place)) == table
    assert "| dpo" in harness("table", "results/runs/small", cwd=place)


def test_a_changed_option_is_refused_and_named(finished):
    place, _ = finished
    run = place / "results/runs/small"
    before = (run / "experiment.yaml").read_bytes()
    told = harness("run", "--method", "sso,dpo", *SMALL, "--temperature", "0.5", cwd=place, code=2)
    assert "sso-seed0: step generator-examples was computed with temperature=1.0 (now 0.5)" in told
    told = harness("run", "--method", "sso,dpo", *SMALL, "--set", "dpo.beta=0.5", cwd=place, code=2)
    assert "dpo-seed0: step policy-examples was computed with options.beta=0.2 (now 0.5)" in told
    assert (run / "experiment.yaml").read_bytes() == before


def test_a_step_is_done_anew_where_asked(finished, tmp_path):
    place, table = finished
    shutil.copytree(place / "results", tmp_path / "results")
    arms = tmp_path / "results/runs/small/arms"
    examples = (arms / "dpo-seed0/steps/policy-examples.json").stat().st_mtime_ns
    slower = ("run", "--method", "sso,dpo", *SMALL, "--set", "dpo.learning_rate=1e-6")
    told = harness(*slower, cwd=tmp_path, code=2)
    assert "step policy was computed with training.learning_rate=0.0001 (now 1e-06)" in told
    assert "--restart-from policy\n" in told
    again = json.loads(harness(*slower, "--restart-from", "dpo/policy", "--json", cwd=tmp_path))
    assert (arms / "dpo-seed0/steps/policy-examples.json").stat().st_mtime_ns == examples
    cells = [[row["cells"] for row in each["rows"]] for each in (table, again)]
    assert cells[0][:2] == cells[1][:2]
    assert cells[0][2]["mt-bench"]["value"] != cells[1][2]["mt-bench"]["value"]


def test_a_step_that_no_arm_has_is_refused_with_those_it_has(finished):
    place, _ = finished
    for step in ("polcy", "base/policy", "ipo/policy"):
        told = harness("run", "--method", "sso,dpo", *SMALL, "--restart-from", step, cwd=place, code=2)
        assert f"no arm has a step {step!r}" in told
        assert "samples-math, samples-mt-bench" in told


def test_a_deleted_checkpoint_is_no_loss(finished, tmp_path):
    """Until something has to be answered anew; then it is trained again from the stored examples."""
    place, table = finished
    shutil.copytree(place / "results", tmp_path / "results")
    arm = tmp_path / "results/runs/small/arms/dpo-seed0"
    weights = arm / "checkpoints/policy/model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(arm / "checkpoints")
    assert json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--json", cwd=tmp_path)) == table
    assert not weights.exists()
    (arm / "samples/math.jsonl").unlink()
    again = json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--json", cwd=tmp_path))
    assert [row["cells"] for row in again["rows"]] == [row["cells"] for row in table["rows"]]
    assert weights.read_bytes() == before


def test_the_index_is_made_again(finished, tmp_path):
    place, _ = finished
    shutil.copytree(place / "results", tmp_path / "results")
    index = tmp_path / "results/runs/small/index.json"
    before = index.read_bytes()
    assert json.loads(before)["files"]["arms/sso-seed0/scores/math.json"]["step"] == "score-math"
    index.unlink()
    harness("run", "--method", "sso,dpo", *SMALL, cwd=tmp_path)
    assert index.read_bytes() == before


@pytest.mark.parametrize("found", [1, 2, 4, None, "3"])
def test_an_unknown_format_is_refused(finished, tmp_path, found):
    place, _ = finished
    shutil.copytree(place / "results", tmp_path / "results")
    versions = tmp_path / "results/runs/small/versions.json"
    versions.write_text(json.dumps(json.loads(versions.read_text()) | {"format": found}))
    for command in (("run", "--method", "sso,dpo", *SMALL), ("table", versions.parent), ("verify", versions.parent)):
        told = harness(*command, cwd=tmp_path, code=2)
        assert f"has format {found}, and this harness reads format 3" in told


def test_a_checkpoint_can_be_scored(finished):
    place, table = finished
    checkpoint = "results/runs/small/arms/sso-seed0/checkpoints/policy"
    scored = json.loads(harness("eval", checkpoint, "--benchmark", "math", "--limit", "24", "--json", cwd=place))
    (row,) = scored["rows"]
    trained = next(row for row in table["rows"] if row["method"] == "sso")
    assert row["cells"]["math"]["value"] == trained["cells"]["math"]["value"]


def test_parallel_arms_give_the_same_scores(finished, tmp_path):
    _, table = finished
    parallel = json.loads(harness("run", "--method", "sso,dpo", *SMALL, "--jobs", "2", "--json", cwd=tmp_path))

    def scores(of):
        return {(row["method"], name): cell["value"] for row in of["rows"] for name, cell in row["cells"].items()}

    assert scores(parallel) == scores(table)


def test_suites_are_written_where_asked(tmp_path):
    harness("testbed", "suites", "here", cwd=tmp_path)
    assert {"mt_bench", "alpaca_eval", "rewardbench", "math", "settings.json"} == {
        path.name for path in (tmp_path / "here").iterdir()
    }
