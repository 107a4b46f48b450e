"""What other tools get: TRL reads the preferences, transformers the model, lm-eval and the hub's library the scores."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from command_line import harness

from harness.benchmarks.base import Score
from harness.experiment.options import Experiment
from harness.exports import cards, hub_results, lm_eval_results
from harness.files import store

HOSTILE = 'a`|b\n---\n<script>x</script> [y](z) \u202e"quoted": *c*'


@pytest.fixture(scope="module")
def finished(testbed_model_dir, tmp_path_factory):
    """A small finished run of sso and sft, and its parent folder."""
    place = tmp_path_factory.mktemp("exports")
    small = ("--budget", "6e10", "--limit", 12, "--benchmark", "mt-bench,math,reward-bench", "--name", "small")
    harness("run", "--method", "sso,sft", *small, "--json", cwd=place)
    return place, place / "results" / "runs" / "small"


def exported(finished, *arguments):
    """The folder that a command has written."""
    place, run = finished
    folder = place / "-".join(str(each).lstrip("-") for each in arguments)
    assert harness("export", arguments[0], run, *arguments[1:], "-o", folder, cwd=place) == f"{folder}\n"
    return folder


def test_preferences_are_a_data_set_that_trl_takes(finished, tmp_path):
    from datasets import load_dataset
    from huggingface_hub import DatasetCard
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder = exported(finished, "preferences", "--method", "sso", "--seed", 0)
    rows = store.read_jsonl(finished[1] / "arms" / "sso-seed0" / "preferences" / "policy.jsonl")
    dataset = load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert len(dataset) == len(rows) > 16
    for given, row in zip(dataset, rows, strict=True):
        assert given["prompt"] == row["prompt"]
        assert given["chosen"] == [{"role": "assistant", "content": row["chosen"]}]
        assert given["rejected"] == [{"role": "assistant", "content": row["rejected"]}]
        assert (given["good_principle"], given["bad_principle"]) == (row["good_principle"], row["bad_principle"])
    card = DatasetCard.load(folder / "README.md")
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert card.data.license is None and "trl" in card.data.tags
    for digest in (store.file_digest(folder / "train.parquet"), *_policy_mark(finished).depends_on["model"].values()):
        assert digest in card.text
    checkpoint = finished[1] / "arms" / "sso-seed0" / "checkpoints" / "policy"
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True, "bf16": False}
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        args=DPOConfig(str(tmp_path / "out"), **settings, save_strategy="no", disable_tqdm=True),
        train_dataset=dataset.select(range(8)),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
    )
    assert trainer.train().training_loss == pytest.approx(math.log(2), abs=1e-4)  # DPO where policy and reference agree


def _policy_mark(finished):
    from harness.files.marks import Folder

    return Folder(finished[1] / "arms" / "sso-seed0").mark("policy-examples")


def test_a_stage_of_its_own(finished):
    import pyarrow.parquet

    folder = exported(finished, "preferences", "--method", "sso", "--stage", "generator")
    rows = store.read_jsonl(finished[1] / "arms" / "sso-seed0" / "preferences" / "generator.jsonl")
    found = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    assert [row["plain"] for row in found] == [row["plain"] for row in rows]


def test_a_model_has_a_card_with_its_results(finished):
    from huggingface_hub import ModelCard

    from harness.engines.transformers import TransformersEngine

    folder = exported(finished, "model", "--method", "sso", "--seed", 0)
    checkpoint = finished[1] / "arms" / "sso-seed0" / "checkpoints" / "policy"
    own, other = (TransformersEngine.load(place, device="cpu").weights_hash for place in (folder, checkpoint))
    assert own == other
    assert {file.suffix for file in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    card = ModelCard.load(folder / "README.md")
    scores = {path.stem: store.read_json(path) for path in (finished[1] / "arms" / "sso-seed0" / "scores").iterdir()}
    results = {result.dataset_type: result for result in card.data.eval_results}
    assert results.keys() == {f"testbed/{name}" for name in scores}
    for name, score in scores.items():
        result = results[f"testbed/{name}"]
        assert (result.metric_value, result.metric_name) == (score["value"], score["metric"])
        assert result.dataset_name.startswith("testbed ")
        assert result.metric_args["questions"] == 12
    assert results["testbed/mt-bench"].metric_args["judge"] == "testbed-world"
    table = (finished[1] / "table.md").read_text()
    assert table.partition("\n")[2].strip() in card.text
    ledger = store.read_json(finished[1] / "arms" / "sso-seed0" / "ledger.json")
    assert f"trained tokens {ledger['total']['trained_tokens']}" in card.text
    assert store.file_digest(folder / "model.safetensors") in card.text
    assert str(finished[0]) not in card.text  # no path of this machine


def test_lm_eval_reads_its_results(finished):
    from lm_eval.utils import get_results_filenames, get_sample_results_filenames, make_table

    folder = exported(finished, "scores", "--format", "lm-eval", "--samples")
    assert sorted(place.name for place in folder.iterdir()) == ["base-seed0", "sft-seed0", "sso-seed0"]
    names = [str(file) for file in (folder / "sso-seed0").iterdir()]
    (file,) = get_results_filenames(names)
    results = store.read_json(Path(file))
    values = store.read_json(finished[1] / "arms" / "sso-seed0" / "scores" / "math.json")["values"].values()
    right, number = sum(value == 100 for value in values), len(values)
    share = right / number
    error = math.sqrt(share * (1 - share) / (number - 1))  # of a share: the sample standard deviation / sqrt(n)
    assert results["results"]["math"]["exact_match,none"] == pytest.approx(share)
    assert results["results"]["math"]["exact_match_stderr,none"] == pytest.approx(error)
    lines = [[cell.strip() for cell in line.split("|")] for line in make_table(results).splitlines()]
    (line,) = [line for line in lines if line[1] == "math"]
    assert line[3:7] == ["none", "0", "exact_match", "↑"]
    assert [float(line[7]), float(line[9])] == pytest.approx([share, error], abs=5e-5)  # four digits are shown
    assert len(get_sample_results_filenames(names)) == 3
    samples = store.read_jsonl(next(path for path in (folder / "sso-seed0").iterdir() if "samples_math_" in path.name))
    assert [sample["doc_id"] for sample in samples] == list(range(12))
    assert sum(sample["exact_match"] for sample in samples) == right
    answers = store.read_jsonl(finished[1] / "arms" / "sso-seed0" / "samples" / "math.jsonl")
    assert [sample["filtered_resps"] for sample in samples] == [[answer["response"]] for answer in answers]
    assert all(sample["arguments"]["gen_args_0"]["arg_0"] and sample["target"] for sample in samples)


def test_the_hubs_library_reads_its_results(finished):
    from huggingface_hub.repocard_data import model_index_to_eval_results

    folder = exported(finished, "scores", "--format", "hub", "--method", "sso")
    assert [str(file.relative_to(folder)) for file in folder.rglob("*.*")] == ["sso-seed0/model-index.yaml"]
    front = yaml.safe_load((folder / "sso-seed0" / "model-index.yaml").read_text())
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "small: sso seed 0"
    assert {result.dataset_name for result in results} == {"testbed MT-Bench", "testbed MATH", "testbed RewardBench"}


class RealArm:
    """An arm with scores of real benchmarks."""

    label = "sso seed 0"
    experiment = Experiment(
        name="real",
        data_dir="data",
        benchmarks=("gsm8k", "mt-bench", "ifeval", "math"),
        options={"math": {"problems": 5000}},  # the whole test set is not the data set MATH-500
    )


def test_entries_name_data_sets_of_the_hub(monkeypatch):
    from huggingface_hub import parse_eval_result_entries

    shots = {"num_fewshot": 8, "chat": True}
    scores = {
        "gsm8k": Score("gsm8k", "exact match %", 71.5, {"0": 71.5}, questions=1319, details=shots),
        "mt-bench": Score("mt-bench", "score (1-10)", 8.25, {"81": 8.25}, questions=80, missing=1, judge="gpt-4"),
        "math": Score("math", "exact match %", 40.0, {"0": 40.0}, questions=5000),
        "ifeval": Score("ifeval", "prompt-level strict accuracy %", math.nan, {}, questions=541, missing=541),
    }
    monkeypatch.setattr("harness.exports.hub_results.scores_of", lambda arm: scores)
    text = yaml.safe_dump(hub_results.entries(RealArm))
    entries = {entry.dataset_id: entry for entry in parse_eval_result_entries(yaml.safe_load(text))}
    assert entries.keys() == {"openai/gsm8k", "HuggingFaceH4/mt_bench_prompts"}  # what has no value has no entry
    assert (entries["openai/gsm8k"].task_id, entries["openai/gsm8k"].value) == ("main", 71.5)
    assert "num_fewshot 8" in entries["openai/gsm8k"].notes
    assert "judge gpt-4" in entries["HuggingFaceH4/mt_bench_prompts"].notes
    assert "missing 1" in entries["HuggingFaceH4/mt_bench_prompts"].notes


def test_standard_errors_are_weighted():
    score = Score("b", "win rate %", 50.0, {"a": 20.0, "b": 60.0}, {"a": 1.0, "b": 3.0})
    # mean (20 + 3 * 60) / 4 = 50; sqrt(2 / 1 * ((1 * 30)^2 + (3 * 10)^2)) / 4 = sqrt(3600) / 4 = 15
    assert lm_eval_results.standard_error(score) == pytest.approx(15.0)
    assert lm_eval_results.standard_error(Score("b", "score", 3.0, {"a": 3.0})) is None
    named = dict(zip("abcd", "xxyy", strict=True))
    twice = Score("b", "score", 2.0, {"a": 1.0, "b": 1.0, "c": 3.0, "d": 3.0}, clusters=named)
    assert lm_eval_results.standard_error(twice) == pytest.approx(1.0)  # of 1 and 3, not of 1, 1, 3 and 3
    names = {"score (1-10)": "score", "prompt-level strict accuracy %": "prompt_level_strict_accuracy", "%": "score"}
    for metric, name in names.items():
        assert hub_results.metric_name(Score(**asdict(score) | {"metric": metric})) == name


def test_texts_of_others_are_only_texts(finished):
    from huggingface_hub import DatasetCard

    card = DatasetCard(cards.card({"pretty_name": HOSTILE}, cards.table(("option", "value"), {HOSTILE: HOSTILE})))
    assert card.data.to_dict() == {"pretty_name": HOSTILE}
    inert = '`a\'\\|b --- <script>x</script> [y](z) "quoted": *c*`'
    assert card.text.strip().splitlines() == ["| option | value |", "|---|---|", f"| {inert} | {inert} |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", "--method", "base"), "base trains nothing, so only its scores can be exported"),
        (("preferences", "--method", "sft"), "sft is not trained on pairs in stage 'policy'"),
        (("preferences", "--method", "dpo"), "unknown method of this run 'dpo'"),
        (("model", "--method", "sso", "--seed", "1"), "has no seed 1: its seeds are 0 to 0"),
        (("model", "--method", "sso", "--stage", "generater"), "did you mean 'generator'?"),
        (("scores", "--format", "csv"), "unknown format 'csv': give lm-eval or hub"),
    ],
)
def test_what_can_not_be_exported(finished, arguments, message, tmp_path):
    told = harness("export", arguments[0], finished[1], *arguments[1:], "-o", tmp_path / "new", cwd=tmp_path, code=2)
    assert message in told
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["preferences", "model", "scores"])
def test_help_has_examples(what, tmp_path):
    assert f"harness export {what} results/runs/experiment" in " ".join(
        harness("export", what, "--help", cwd=tmp_path).split()
    )


def test_nothing_is_replaced_and_nothing_changed_is_exported(finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    model = ("export", "model", finished[1], "--method", "sft", "-o")
    assert "mine already exists" in harness(*model, tmp_path / "mine", cwd=tmp_path, code=2)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    file = finished[1] / "arms" / "sft-seed0" / "scores" / "math.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(before) | {"value": 99.0}))
        assert "math.json has changed since step score-math wrote it" in harness(*model, "new", cwd=tmp_path, code=2)
    finally:
        file.write_text(before)
