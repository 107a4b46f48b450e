"""What users of TRL's DPOTrainer find in SSOTrainer: arguments, evaluation, logs, callbacks, cards, the hub, errors."""

import ast
import json
import math
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from paths import ROOT
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, TrainerCallback
from trl import DPOConfig, DPOTrainer, TrlParser

from harness.errors import UserError
from harness.testbed.prompts import preferences, prompts
from sso import SSOConfig, SSOTrainer, SSOVersion1Config
from sso.errors import SSOError, in_words_of_the_library
from sso.refused import ARGUMENTS

SETTINGS = {
    **{"learning_rate": 1e-4, "per_device_train_batch_size": 8, "max_completion_length": 64, "use_cpu": True},
    **{"temperature": 1.0, "top_p": 1.0, "principle_set": "testbed", "generator_prompts": 12, "report_to": "none"},
}
PROMPTS = [{"prompt": prompt.messages[0]["content"]} for prompt in prompts()[:32]]
PAIRS = [
    {
        "prompt": list(pair.messages),
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }
    for pair in preferences(12)
]


def trainer_of(model, folder, number=16, kind=SSOTrainer, settings=None, **arguments):
    if isinstance(model, Path):
        model = str(model)
    args = kind.config(str(folder), **{**SETTINGS, **(settings or {})})
    return kind(model, args=args, train_dataset=PROMPTS[:number], **arguments)


def digests(folder):
    return json.loads((folder / "steps" / "policy.json").read_text())["files"]


class Seen(TrainerCallback):
    def __init__(self):
        self.logs, self.evaluations = [], []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(dict(logs))

    def on_evaluate(self, args, state, control, metrics=None, **_):
        self.evaluations.append(metrics)


def test_evaluation_changes_no_result_and_equals_trl(testbed_model_dir, tmp_path):
    """Loss and margins on labelled pairs are those of DPOTrainer.evaluate with the same policy and reference."""
    seen = Seen()
    settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 5, "beta": 0.3, "resume_from_checkpoint": None}
    trainer = trainer_of(testbed_model_dir, tmp_path / "a", settings=settings, eval_dataset=PAIRS, callbacks=[seen])
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-6)
    result = trainer.train()
    after = trainer.evaluate()
    rows = trainer.state.log_history
    assert [row["stage"] for row in rows if "eval_loss" in row] == ["generator", "policy", "policy"]
    assert len(seen.evaluations) == 4  # before, in each stage, after
    assert seen.evaluations[2]["eval_loss"] == pytest.approx(after["eval_loss"], abs=1e-5)
    updates = [row for row in rows if "loss" in row]
    assert [row["step"] for row in updates] == list(range(1, result.global_step + 1))
    assert {"rewards/margins", "rewards/accuracies", "grad_norm", "learning_rate"} <= updates[0].keys()
    assert any("rewards/margins" in log for log in seen.logs)
    assert [row for row in rows if "train_loss" in row][0]["train_loss"] == result.training_loss

    theirs = DPOTrainer(
        trainer.model,
        ref_model=AutoModelForCausalLM.from_pretrained(testbed_model_dir, dtype=torch.float32),
        args=DPOConfig(
            str(tmp_path / "trl"), beta=0.3, use_cpu=True, bf16=False, report_to=[], per_device_eval_batch_size=12
        ),
        train_dataset=Dataset.from_list(PAIRS),
        eval_dataset=Dataset.from_list(PAIRS),
        processing_class=trainer.processing_class,
    ).evaluate()
    for name in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"):
        assert after[name] == pytest.approx(theirs[name], abs=2e-5), name

    plain = trainer_of(testbed_model_dir, tmp_path / "b", settings={"beta": 0.3})
    assert plain.train() == result
    assert digests(tmp_path / "b") == {
        name: digest for name, digest in digests(tmp_path / "a").items() if not name.startswith("evaluations/")
    }
    spent = json.loads((tmp_path / "a" / "evaluations" / "policy-ledger.json").read_text())["roles"]
    assert spent["reference"]["prompt_tokens"] == spent["evaluate"]["prompt_tokens"] > 0


def test_held_out_prompts_have_the_loss_of_their_stage(testbed_model_dir, tmp_path):
    """Before its first update, with gamma 0, the loss of a stage is log 2 for each pair that it reads."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "gamma": 0.0}
    trainer = trainer_of(testbed_model_dir, tmp_path, settings=settings, eval_dataset=PROMPTS[20:32])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    first = {stage: next(row for row in rows if row["stage"] == stage) for stage in ("generator", "policy")}
    assert first["generator"]["eval_loss"] == pytest.approx(2 * math.log(2), abs=1e-6)
    assert first["policy"]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"eval_positive_loss", "eval_negative_accuracy"} <= first["generator"].keys()
    assert trainer.evaluate(PROMPTS[20:24])["eval_loss"] > 0


def test_callbacks_come_and_go(testbed_model_dir, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = True

    trainer = trainer_of(testbed_model_dir, tmp_path, callbacks=[Seen])
    trainer.add_callback(Stop)
    other = Seen()
    trainer.add_callback(other)
    assert trainer.pop_callback(Stop).__class__ is Stop and trainer.pop_callback(Stop) is None
    trainer.remove_callback(other)
    trainer.add_callback(Stop())
    result = trainer.train()
    assert result.global_step == 2  # one in each stage
    batches = [json.loads(line) for line in (tmp_path / "training" / "policy.jsonl").read_text().splitlines()]
    assert len(batches) == 1
    assert result.metrics["trained_tokens"] == trainer.trained.ledger.roles["train"].trained_tokens
    assert len(trainer.callbacks[0].logs) == 4  # of an update and the end, in each stage


def test_a_peft_model_and_a_reference(testbed_model_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(testbed_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(testbed_model_dir)
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    given = get_peft_model(model, adapters)
    with pytest.raises(ValueError, match="model has adapters already"):
        trainer_of(given, tmp_path, processing_class=tokenizer, peft_config=adapters)
    reference = AutoModelForCausalLM.from_pretrained(testbed_model_dir)
    with torch.no_grad():
        reference.model.norm.weight.mul_(0.5)
    settings = {"generator_prompts": 16}
    trainer = trainer_of(given, tmp_path / "out", settings=settings, processing_class=tokenizer, ref_model=reference)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())  # the user's stays
    first = json.loads((tmp_path / "out" / "training" / "policy.jsonl").read_text().splitlines()[0])
    assert first["loss"] != pytest.approx(math.log(2), abs=1e-3)  # the reference is another model
    assert first["chosen_logratio"] > 0.1
    plain = type(trainer.model).from_pretrained(testbed_model_dir).state_dict()
    assert {
        name.rpartition(".")[0].rpartition(".")[2]
        for name, value in trainer.model.state_dict().items()
        if not torch.equal(value, plain[name])
    } <= {*("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}
    given.save_pretrained(tmp_path / "adapter")
    frozen = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(testbed_model_dir), tmp_path / "adapter")
    with pytest.raises(ValueError, match="frozen.*is_trainable=True"):
        trainer_of(frozen, tmp_path / "other", processing_class=tokenizer)


def test_how_a_named_model_is_loaded(testbed_model_dir, tmp_path):
    settings = {"model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "sdpa"}}
    trainer = trainer_of(testbed_model_dir, tmp_path, settings=settings)
    assert trainer.model.dtype == torch.bfloat16 and trainer.engine.attention == "sdpa"
    for given, message in [
        ({"revision": "main"}, "model_init_kwargs: revision has no effect"),
        ({"attn_implementation": "eager"}, "attn_implementation must be one of"),
        ({"dtype": "int3"}, "dtype 'int3' is not known"),
    ]:
        with pytest.raises(ValueError, match=message):
            trainer_of(testbed_model_dir, tmp_path, settings={"model_init_kwargs": given})
    model, tokenizer = trainer.model, trainer.processing_class
    with pytest.raises(ValueError, match="model_init_kwargs has no effect on a model that is loaded"):
        trainer_of(model, tmp_path, settings=settings, processing_class=tokenizer)


def test_resuming(testbed_model_dir, tmp_path):
    with pytest.raises(ValueError, match="has nothing to resume from"):
        trainer_of(testbed_model_dir, tmp_path / "a").train(resume_from_checkpoint=True)
    first = trainer_of(testbed_model_dir, tmp_path / "a").train()
    assert trainer_of(testbed_model_dir, tmp_path / "a").train(resume_from_checkpoint=True) == first
    again = trainer_of(testbed_model_dir, tmp_path / "a", settings={"resume_from_checkpoint": str(tmp_path / "a")})
    assert again.train() == first and not again.trained.worked
    with pytest.raises(ValueError, match="training resumes in output_dir"):
        again.train(resume_from_checkpoint=str(tmp_path / "b"))
    with pytest.raises(ValueError, match="has results of an earlier call"):
        again.train(resume_from_checkpoint=False)
    with pytest.raises(ValueError, match="does not take trial"):
        again.train(trial={})


def test_card_and_hub(testbed_model_dir, tmp_path, monkeypatch):
    """The network is replaced; what would be uploaded is a model with its card."""
    uploaded = {}

    def upload(repo_id, folder_path, **options):
        AutoModelForCausalLM.from_pretrained(folder_path)
        uploaded[repo_id] = {**options, "card": (Path(folder_path) / "README.md").read_text()}
        return "a commit"

    class Repository:
        repo_id = "someone/policy"

    monkeypatch.setattr("sso.card.create_repo", lambda name, **options: Repository())
    monkeypatch.setattr("sso.card.upload_folder", upload)
    settings = {"push_to_hub": True, "hub_model_id": "policy", "hub_token": "secret", "lr_scheduler_type": "linear"}
    trainer = trainer_of(testbed_model_dir, tmp_path, settings=settings)
    trainer.train()
    assert not uploaded
    assert trainer.push_to_hub(dataset_name="my/prompts", tags="extra") == "a commit"
    card = ModelCard(uploaded["someone/policy"]["card"])
    assert {"sso", "extra", "generated_from_trainer"} <= set(card.data.tags) and card.data.datasets == ["my/prompts"]
    assert "@inproceedings{xiang2025self" in card.text and str(tmp_path) not in str(card)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert f"{ledger['total']['flops']:.4g} FLOPs" in card.text
    assert f"| train | {ledger['roles']['train']['flops']:.4g} |" in card.text
    assert "| `lr_scheduler` | `linear` |" in card.text and card.data.base_model is None
    assert "secret" not in str(card) and uploaded["someone/policy"]["token"] == "secret"
    uploaded.clear()
    trainer.save_model(str(tmp_path / "saved"))
    assert uploaded["someone/policy"]["commit_message"] == "Model save"

    def refuses(*_, **__):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr("sso.card.create_repo", refuses)
    with pytest.raises(ValueError, match="could not be uploaded to 'policy' .401 Unauthorized."):
        trainer.push_to_hub()
    with pytest.raises(ValueError, match="leave out blocking=False"):
        trainer.push_to_hub(blocking=False)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "optimizers"])
def test_arguments_that_would_do_nothing_are_refused_by_name(testbed_model_dir, tmp_path, name):
    with pytest.raises(ValueError, match=f"SSOTrainer does not take {name}: "):
        trainer_of(testbed_model_dir, tmp_path, **{name: object()})


def test_other_mistakes_of_arguments(testbed_model_dir, tmp_path):
    with pytest.raises(ValueError, match="does not take optimizers"):
        trainer_of(testbed_model_dir, tmp_path, optimizers=(object(), None))
    with pytest.raises(TypeError, match="unexpected keyword argument 'modle'"):
        trainer_of(testbed_model_dir, tmp_path, modle=1)
    with pytest.raises(ValueError, match="args is the third argument"):
        SSOTrainer(str(testbed_model_dir), SSOConfig(str(tmp_path), use_cpu=True), PROMPTS)
    with pytest.raises(ValueError, match="train_dataset is missing"):
        SSOTrainer(str(testbed_model_dir), args=SSOConfig(str(tmp_path), use_cpu=True))
    with pytest.raises(ValueError, match="eval_strategy=epoch needs an eval_dataset"):
        trainer_of(testbed_model_dir, tmp_path, settings={"eval_strategy": "epoch"})
    with pytest.raises(ValueError, match="eval_dataset is a mapping of a, b"):
        trainer_of(testbed_model_dir, tmp_path, eval_dataset={"a": PAIRS, "b": PAIRS})
    with pytest.raises(ValueError, match="12 rows with chosen and rejected, and 32 without"):
        trainer_of(testbed_model_dir, tmp_path, eval_dataset=PAIRS + PROMPTS)
    trainer = trainer_of(testbed_model_dir, tmp_path)
    with pytest.raises(ValueError, match="eval_dataset is missing"):
        trainer.evaluate()
    with pytest.raises(AttributeError, match="SSOTrainer has no predict: each stage"):
        trainer.predict(PAIRS)
    assert not hasattr(trainer, "nothing")


def test_labels_that_training_does_not_read_are_named(testbed_model_dir, tmp_path, capsys):
    args = SSOConfig(str(tmp_path), **SETTINGS)
    SSOTrainer(str(testbed_model_dir), args=args, train_dataset=PAIRS)
    assert "train_dataset: columns that are not used: chosen (12 rows), rejected (12 rows)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [SSOConfig, SSOVersion1Config])
def test_configs_are_read_by_the_parsers_of_scripts(kind, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("beta: 0.7\nloss_type: [ipo]\n")
    (args,) = TrlParser((kind,)).parse_args_and_config(["--config", str(file), "--output_dir", "out", "--use_cpu"])
    assert (args.beta, args.loss_type) == (0.7, ["ipo"])
    parser = HfArgumentParser(kind)
    line = ["--output_dir", "out", "--use_cpu", "--features", "3", "--model_init_kwargs", '{"dtype": "float32"}']
    (args,) = parser.parse_args_into_dataclasses(line)
    assert (args.features, args.model_init_kwargs) == (3, {"dtype": "float32"})
    for each in parser._actions:
        assert each.help and len(each.help) > 10, each.dest
    parser.format_help()


USED = ("sso", "engines", "training", "stages", "files", "models", "methods")  # packages of the library
NOT_USED = (  # modules there that no trainer reaches; of environment, it calls check_alone
    *("harness.training.processes", "harness.training.tracking", "harness.training.environment"),
    *("harness.engines.vllm", "harness.engines.answering", "harness.methods.mixtures", "harness.models.gguf"),
    *("harness.stages.plan", "harness.stages.intermediate", "harness.files.typed"),
)

NOT_SAID = "a reference that follows the policy"  # of DPO's option reference=sync


def test_no_word_of_the_command_line_reaches_users_of_the_library():
    """Each option of a command that a message of the library's modules names has another word there."""
    left = {}
    for file in sorted(ROOT.glob("*/**/*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if module.removeprefix("harness.").split(".")[0] not in USED or module.startswith((*NOT_USED, "sso.errors")):
            continue
        tree = ast.parse(file.read_text())
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        documentation = {
            node.body[0].value for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
                if node.value.startswith(NOT_SAID):
                    continue
                words = re.findall(r"(?<![\w-])--[a-z][\w-]*", in_words_of_the_library(node.value))
                left |= {(module, word): node.value for word in words}
    assert not left


def test_errors_are_value_errors(tmp_path):
    assert issubclass(SSOError, ValueError) and issubclass(SSOError, UserError)
    with pytest.raises(ValueError, match="principles must be one of fixed, self, model"):
        trainer_of("nowhere", tmp_path, settings={"principles": "none"})


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "LOCAL_RANK"])
def test_a_launcher_is_refused_in_the_words_of_the_library(monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ValueError, match=f"sets {variable}='2'.*this trainer trains in one process") as raised:
        SSOConfig(str(tmp_path), use_cpu=True)
    assert "--" not in str(raised.value)


def test_the_requirements_of_the_core_suffice(tmp_path):
    """In a process that sees only what the core's requirements, and those of these, resolve to."""
    places, waiting = {}, [Requirement(line) for line in distribution("harness").requires if "extra ==" not in line]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in places or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found = distribution(name)
        except ModuleNotFoundError:
            continue  # for another platform
        places[name] = found
        waiting += [Requirement(line) for line in found.requires or ()]
    assert {"torch", "transformers", "peft", "datasets", "accelerate"} <= places.keys()
    assert not {"trl", "lm-eval", "openai", "alpaca-eval", "scikit-learn"} & places.keys()
    packages = tmp_path / "site-packages"
    packages.mkdir()
    for found in places.values():
        for top in {Path(str(file)).parts[0] for file in found.files or () if not str(file).startswith("..")}:
            link = packages / top
            if not link.exists() and top != "__pycache__":
                link.symlink_to(Path(str(found.locate_file(top))))
    for package in ("harness", "sso", "baselines"):
        (packages / package).symlink_to(ROOT / package)
    code = """
import sys
sys.path = [entry for entry in sys.path if "site-packages" not in entry] + [sys.argv[1]]
from sso import SSOConfig, SSOTrainer
from harness.models.folder import MODEL_DIR
from harness.testbed.prompts import prompts
rows = [{"prompt": list(prompt.messages)} for prompt in prompts()[:12]]
args = SSOConfig(sys.argv[2], learning_rate=1e-4, max_completion_length=32, principle_set="testbed", temperature=1.0,
    top_p=1.0, generator_prompts=8, per_device_train_batch_size=4, report_to="none", use_cpu=True)
trainer = SSOTrainer(str(MODEL_DIR), args=args, train_dataset=rows)
trainer.train()
trainer.create_model_card()
assert "trl" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(packages), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
