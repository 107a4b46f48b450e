"""Preference rows, and the token ids that TRL's DPOTrainer makes of them."""

from types import SimpleNamespace

from chat_messages import assistant, user
from datasets import Dataset
from trl import DPOTrainer

TOOL = {"type": "function", "function": {"name": "weather", "description": "Rain?", "parameters": {"type": "object"}}}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def trl_ids(tokenizer, row: dict) -> tuple[list[int], list[int], list[int]]:
    """prompt_ids, chosen_ids and rejected_ids of the dataset that TRL's DPOTrainer trains on."""
    trainer = SimpleNamespace(_tokenizer=tokenizer, _is_vlm=False)
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None)
    dataset = DPOTrainer._prepare_dataset(trainer, Dataset.from_list([row]), tokenizer, arguments, "train")
    return tuple(dataset[0][name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))


PAIR = {"chosen": [assistant("The sky is blue.")], "rejected": [assistant("Two and two are four.")]}


BEGUN = {"prompt": [user("Two and two?"), assistant("The answer is")]}
