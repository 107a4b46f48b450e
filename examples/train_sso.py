"""Train a model with SSO, as TRL's scripts train with DPO; by default the embedded model, in less than a minute.

    python examples/train_sso.py --output_dir out
    python examples/train_sso.py --output_dir out --model Qwen/Qwen2.5-0.5B-Instruct --prompts prompts.jsonl \
        --learning_rate 1e-6 --principle_set general --max_completion_length 512

All other options are fields of SSOConfig: python examples/train_sso.py --help
"""

from dataclasses import dataclass, field

from datasets import Dataset, load_dataset
from transformers import HfArgumentParser

from harness.models.folder import MODEL_DIR
from harness.testbed.prompts import prompts
from sso import SSOConfig, SSOTrainer


@dataclass
class ScriptArguments:
    """What this script reads beside SSOConfig."""

    model: str = field(default=str(MODEL_DIR), metadata={"help": "A folder or hub id."})
    prompts: str | None = field(default=None, metadata={"help": "A JSONL file of rows with a prompt."})
    rows: int = field(default=112, metadata={"help": "How many prompts are read, at most."})
    held_out: int = field(default=16, metadata={"help": "How many prompts are evaluated rather than trained on."})


if __name__ == "__main__":
    parser = HfArgumentParser((ScriptArguments, SSOConfig))
    parser.set_defaults(
        learning_rate=1e-4,
        per_device_train_batch_size=8,
        max_completion_length=64,
        temperature=1.0,
        top_p=1.0,
        principle_set="testbed",
        generator_prompts=48,
        eval_strategy="epoch",
        report_to="none",
    )
    script, config = parser.parse_args_into_dataclasses()

    if script.prompts:
        rows = load_dataset("json", data_files=script.prompts, split=f"train[:{script.rows}]")
    else:
        rows = Dataset.from_list([{"prompt": list(prompt.messages)} for prompt in prompts()[: script.rows]])
    split = rows.train_test_split(script.held_out, seed=config.seed)

    trainer = SSOTrainer(script.model, args=config, train_dataset=split["train"], eval_dataset=split["test"])
    result = trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.log_metrics("train", result.metrics)
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    trainer.create_model_card()
    if config.push_to_hub:
        trainer.push_to_hub()
