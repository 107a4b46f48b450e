"""Copies of the start model: one to train, and whole ones of what was trained, at the end and along the way."""

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.engines import saving
from harness.engines.base import TrainableEngine
from harness.engines.quantization import copied, in_four_bits
from harness.errors import UserError
from harness.files.disk import whole
from harness.training.base import PreferenceArguments
from harness.training.loop import use_padding_token
from harness.training.noise import switch_off_dropout


def quiet_copy(engine: TrainableEngine, all_weights: bool) -> PreTrainedModel:
    """A copy of the engine's model without noise, to train adapters or all its weights: those in float32, with the
    digits of its files, as small updates vanish in bfloat16. Weights in 4 bits are shared, and adapters on them come
    along."""
    model = engine.in_float32() if all_weights else copied(engine.model if engine.adapted is None else engine.adapted)
    switch_off_dropout(model)
    use_padding_token(model, engine.tokenizer)
    return model


def with_adapters(model: PreTrainedModel, peft_config: Any, args: PreferenceArguments, name: str) -> torch.nn.Module:
    """The model with adapters to train, which start at random; adapters that are not merged into it are trained on.

    Raises:
        UserError: when the adapters are on the head, which is read as a plain matrix.
    """
    from peft import PeftModel, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    # the buffers of ZeRO-3 hold one type of numbers: adapters in float32 beside other weights fail at the first update
    sharded = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if not isinstance(model, PeftModel):
        model = get_peft_model(model, copy.deepcopy(peft_config), autocast_adapter_dtype=not sharded)  # peft changes it
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            f"peft_config puts an adapter on the head of {name}, which is read as a plain matrix, so that the adapter "
            "would not be trained: leave the head out of target_modules"
        )
    if args.activation_checkpointing:  # else no gradient reaches the adapters through the first, frozen layers
        model.enable_input_require_grads()
    return model


def save_trained(trainer: Trainer, engine: TrainableEngine, peft_config: Any, folder: Path) -> None:
    """Save the trainer's model after its last update; all processes must call this."""
    sharded = trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    trained = whole_copy(trainer, engine, peft_config) if sharded else trainer.model
    if trainer.accelerator.is_main_process:
        _save(trained, engine, peft_config, folder)
    trainer.accelerator.wait_for_everyone()


def whole_copy(trainer: Trainer, engine: TrainableEngine, peft_config: Any) -> torch.nn.Module | None:
    """A copy of the trainer's model with all its weights, in float32 on the CPU, for the first process; None for the
    others. All processes must call this."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return None
    device = engine.model.device
    engine.model.to("cpu")
    with torch.random.fork_rng():  # training goes on with the same random numbers
        model = quiet_copy(engine, all_weights=peft_config is None)
        if peft_config is not None:
            model = with_adapters(model, peft_config, trainer.args, engine.name)
    engine.model.to(device)
    model.float().load_state_dict(weights)
    return model


def _save(trained: Any, engine: TrainableEngine, peft_config: Any, folder: Path) -> None:
    if in_four_bits(engine.model):
        with whole(folder) as place:
            saving.save_adapters(trained, engine.tokenizer, place)
        return
    if peft_config is not None:
        trained = trained.float().merge_and_unload()
    with whole(folder) as place:
        saving.save(trained, engine.tokenizer, place)


def snapshot(state: Path, update: int) -> Path:
    """The folder of the model as it was after an update, in the folder of a training's state."""
    return state / f"update-{update}"


class SaveSnapshots(TrainerCallback):
    """Saves a copy of the model after each of some updates; training goes on as it would without."""

    def __init__(self, trainer: Trainer, engine: TrainableEngine, peft_config: Any, updates: Collection[int]) -> None:
        self._trainer, self._engine, self._peft_config, self._updates = trainer, engine, peft_config, updates

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step not in self._updates:
            return
        model = whole_copy(self._trainer, self._engine, self._peft_config)
        if model is not None:
            _save(model, self._engine, self._peft_config, snapshot(Path(args.output_dir), state.global_step))
