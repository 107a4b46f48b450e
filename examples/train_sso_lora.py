"""Train adapters (LoRA) with SSO on a loaded model; by default the embedded model, in less than a minute.

python examples/train_sso_lora.py --output_dir out
"""

from dataclasses import dataclass, field

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from harness.models.folder import MODEL_DIR
from harness.testbed.prompts import prompts
from sso import SSOConfig, SSOTrainer


@dataclass
class ScriptArguments:
    """What this script reads beside SSOConfig."""

    model: str = field(default=str(MODEL_DIR), metadata={"help": "A folder or hub id."})
    rows: int = field(default=96, metadata={"help": "How many prompts are trained on."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=16, metadata={"help": "Weight of the adapters, as lora_alpha / lora_r."})


if __name__ == "__main__":
    parser = HfArgumentParser((ScriptArguments, SSOConfig))
    parser.set_defaults(
        learning_rate=1e-3,
        per_device_train_batch_size=8,
        max_completion_length=64,
        temperature=1.0,
        top_p=1.0,
        principle_set="testbed",
        generator_prompts=48,
        report_to="none",
    )
    script, config = parser.parse_args_into_dataclasses()

    trainer = SSOTrainer(
        AutoModelForCausalLM.from_pretrained(script.model),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": list(prompt.messages)} for prompt in prompts()[: script.rows]]),
        processing_class=AutoTokenizer.from_pretrained(script.model),
        peft_config=LoraConfig(r=script.lora_r, lora_alpha=script.lora_alpha, target_modules="all-linear"),
    )
    result = trainer.train()
    trainer.log_metrics("train", result.metrics)
    trainer.save_model()  # with the adapters merged: AutoModelForCausalLM reads it
