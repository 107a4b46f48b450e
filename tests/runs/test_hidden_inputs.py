"""One thing is changed between two calls of the same command: what changes bytes is refused and named."""

import json
import shutil
from threading import Thread

import pytest
from command_line import harness
from loopback_judge import serve

from harness.benchmarks.ifeval_checks import _MODEL_FILES
from harness.experiment.options import Experiment
from harness.files.folders import RunFolder
from harness.models import fingerprints
from harness.runs import engine_choice
from harness.runs.arm import Arm
from harness.runs.engine_choice import threads_of
from harness.runs.inputs import Inputs
from harness.runs.judge_choice import described_judge
from harness.runs.processes import launch_dependencies

RUN = ("run", "--method", "dpo", "--budget", "updates=1", "--limit", "2", "--benchmark", "mt-bench", "--name", "r")
PLACE = "results/runs/r"


@pytest.fixture(scope="module")
def finished(testbed_model_dir, tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    harness(*RUN, cwd=place)
    return place


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    return tmp_path


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ATEN_CPU_CAPABILITY", "default"), ("MKL_CBWR", "COMPATIBLE")],
)
def test_variables_that_change_numbers(finished, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    told = harness(*RUN, cwd=finished, code=2)
    assert f'was computed with environment.{variable}=null (now "{value}")' in told


def test_variables_that_change_none(finished, monkeypatch):
    for name in ("TZ", "TORCH_HOME", "PYTORCH_CUDA_ALLOC_CONF", "TRITON_CACHE_DIR", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "info")
    before = (finished / PLACE / "index.json").stat().st_mtime_ns
    harness(*RUN, cwd=finished)
    assert (finished / PLACE / "index.json").stat().st_mtime_ns == before


def test_the_batch_size(finished):
    told = harness(*RUN, "--batch-size", "5", cwd=finished, code=2)
    assert "was computed with batch_size=128 (now 5)" in told


def test_threads_of_a_model_that_is_not_small(finished, monkeypatch):
    experiment = Experiment(device="cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of(experiment) == 1, "a small model computes on one, whatever is set"
    monkeypatch.setattr(engine_choice, "SMALL", 1)
    assert threads_of(experiment) == 3
    told = harness(*RUN, cwd=finished, code=2)
    assert "was computed with threads=1 (now 3)" in told
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    assert threads_of(experiment) == 2
    engine_choice.use_threads(experiment)
    import torch

    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def change_reference(place):
    (file,) = (place / PLACE / "reference").rglob("*.jsonl")
    text = file.read_text()
    row = json.loads(text.splitlines()[1])
    file.write_text(text.replace(json.dumps(row), json.dumps(row | {"totals": [0.0, -9.0]})))
    return file


def test_log_probabilities_of_the_reference_that_were_edited(copy):
    file = change_reference(copy)
    told = harness(*RUN, "--restart-from", "dpo/policy", cwd=copy, code=2)
    assert f"{file.relative_to(copy)} was changed since it was written" in told and "delete it" in told
    file.unlink()
    weights = copy / PLACE / "arms/dpo-seed0/checkpoints/policy/model.safetensors"
    before = weights.read_bytes()
    harness(*RUN, cwd=copy)
    assert weights.read_bytes() == before and file.exists()


@pytest.fixture
def judges():
    """Two endpoints that have the same judge by name."""
    servers = [serve() for _ in range(2)]
    threads = [Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    yield [f"http://127.0.0.1:{server.server_port}/v1" for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_judge_of_the_same_name_at_another_url(testbed_model_dir, tmp_path, judges, monkeypatch):
    one, other = judges
    scored = ("run", "--method", "base", "--benchmark", "mt-bench", "--limit", "1", "--judge-model", "any")
    harness(*scored, "--name", "a", "--judge-url", one, cwd=tmp_path)
    log = tmp_path / "results/runs/a/judge"
    rows = [file.read_text().count("\n") for file in sorted(log.glob("*.jsonl"))]
    told = harness(*scored, "--name", "a", "--judge-url", other, cwd=tmp_path, code=2)
    assert f'step score-mt-bench was computed with judge endpoint="{one}" (now "{other}")' in told
    harness(*scored, "--name", "a", "--judge-url", f"{one}/", "--restart-from", "score-mt-bench", cwd=tmp_path)
    assert [file.read_text().count("\n") for file in sorted(log.glob("*.jsonl"))] == rows, "paid replies are found"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-of-this-test")
    monkeypatch.setenv("OPENAI_BASE_URL", other)
    harness(*scored, "--name", "b", cwd=tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", one)
    told = harness(*scored, "--name", "b", cwd=tmp_path, code=2)
    assert f'was computed with judge endpoint="{other}" (now "{one}")' in told
    told = harness("table", "results/runs/a", "results/runs/b", cwd=tmp_path, code=2)
    assert "mt-bench was judged by any in both, but not by the same one: judge endpoint" in told
    assert one in told and other in told
    harness("leaderboard", cwd=tmp_path)
    groups = (tmp_path / "results/LEADERBOARD.md").read_text().split("\n## ")
    assert len([part for part in groups if part.startswith("testbed, start model")]) == 2


def test_a_judge_that_runs_here_is_known_by_all_its_files(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "judge")
    experiment = Experiment(judge_engine=str(folder))
    before = described_judge(experiment, None)["judge model"]
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    after = described_judge(experiment, None)["judge model"]
    assert {name for name in before if before[name] != after[name]} == {"template"}


def test_the_model_that_splits_sentences(testbed_model_dir, tmp_path, monkeypatch):
    """nltk's data are no questions, and decide verdicts of IFEval."""
    monkeypatch.setattr("nltk.data.path", [])
    questions = tmp_path / "data" / "ifeval" / "input_data.jsonl"
    questions.parent.mkdir(parents=True)
    row = {"key": 1, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    questions.write_text(json.dumps(row) + "\n")
    experiment = Experiment(benchmarks=("ifeval",), methods=("base",), data_dir=str(tmp_path / "data"))

    def depends_on():
        arm = Arm(experiment, "base", 0, RunFolder(tmp_path / "run"))
        (scoring,) = arm.scorings(Inputs(experiment, (), (), tmp_path / "data", None))
        return scoring._samples_depend_on

    before = depends_on()
    assert "resources" not in before
    model = tmp_path / "data" / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    for name in _MODEL_FILES:
        (model / name).write_bytes(b"")
    trained = depends_on()
    (model / "abbrev_types.txt").write_bytes(b"o\n")
    other = depends_on()
    assert trained["resources"] != other["resources"]
    assert {name for name in other if before.get(name) != other[name]} == {"resources"}


def test_commits_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    values = ("me/principles", "me/rows/config:train[:10%]", "me/absent", "fixed", 3)
    for kind, name, commit in (("models", "principles", "aaa"), ("datasets", "rows", "bbb")):
        (tmp_path / f"{kind}--me--{name}" / "refs").mkdir(parents=True)
        (tmp_path / f"{kind}--me--{name}" / "refs" / "main").write_text(commit)
    assert fingerprints.of_named(values) == {"me/principles": "aaa", "me/rows/config:train[:10%]": "bbb"}


def test_files_of_a_model(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    before = fingerprints.of_model(folder)
    for file, part in {"modeling_own.py": "code", "vocab.txt": "tokenizer", "spiece.model": "tokenizer"}.items():
        (folder / file).write_text("x")
        now = fingerprints.of_model(folder)
        assert {name for name in now if now[name] != before.get(name)} == {part}
        before = now


def test_the_default_configuration_of_accelerate(tmp_path, monkeypatch):
    """accelerate launch reads it where it is given none."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    experiment = Experiment(launcher="accelerate launch")
    before = launch_dependencies(experiment)
    (tmp_path / "accelerate").mkdir()
    file = tmp_path / "accelerate" / "default_config.yaml"
    deepspeed = tmp_path / "zero.json"
    deepspeed.write_text("{}")
    file.write_text(f"mixed_precision: bf16\ndeepspeed_config:\n  deepspeed_config_file: {deepspeed}\n")
    with_file = launch_dependencies(experiment)
    deepspeed.write_text('{"zero": 1}')
    assert before != with_file != launch_dependencies(experiment)
    assert launch_dependencies(Experiment(launcher="torchrun --nproc_per_node 2"))["files"] == {}
