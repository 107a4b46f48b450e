"""Small public files of training prompts and pairs, for a first comparison on a real model."""

from harness.files.data_files import DataFile

NAME = "training"  # harness data fetch training
_FACTORY = "https://raw.githubusercontent.com/hiyouga/LLaMA-Factory/ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30/data"
_RASBT = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/28c65cdfbc3338e2e040016eea4b7fdf556e4d57"
TRAINING_FILES = (
    DataFile(
        "prompts/alpaca_en_demo.json",
        f"{_FACTORY}/alpaca_en_demo.json",
        "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
        "CC-BY-NC-4.0 (Alpaca)",
    ),
    DataFile(
        "prompts/dpo_en_demo.json",
        f"{_FACTORY}/dpo_en_demo.json",
        "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3",
        "Apache-2.0",
    ),
    DataFile(
        "prompts/instruction-data-with-preference.json",
        f"{_RASBT}/ch07/04_preference-tuning-with-dpo/instruction-data-with-preference.json",
        "305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e",
        "Apache-2.0",
    ),
)
