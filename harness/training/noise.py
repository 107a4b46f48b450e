"""Training without noise: no dropout, router jitter or skipped layer, also where activations are recomputed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

NOISE = ("drop", "jitter", "noise")  # parts of the names of numbers that make a layer random in training


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Set dropout and other noise of training to 0, also where a layer keeps the rate as a number, as attention does.

    Noise under another name is off as well where a model trains `without_noise`.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and any(part in name for part in NOISE):
                setattr(module, name, 0.0)


def without_noise(model: torch.nn.Module) -> None:
    """Put a model into evaluation mode, in which nothing is random, whatever a model calls it; gradients still flow.

    Layers whose activations are recomputed in the backward pass stay in training mode, which tells them to do so, but
    are in evaluation mode while they compute.
    """
    model.eval()
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    layers = [module for module in checkpointed if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        if not isinstance(layer._gradient_checkpointing_func, _QuietCheckpoint):
            layer._gradient_checkpointing_func = _QuietCheckpoint(layer, layer._gradient_checkpointing_func)
    for module in layers or checkpointed:
        module.training = True


@dataclass(frozen=True)
class _QuietCheckpoint:
    """Computes a layer in evaluation mode, in the forward pass and when it is recomputed."""

    layer: GradientCheckpointingLayer
    checkpoint: Callable[..., Any]

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        def quiet(*args: Any) -> Any:
            before, self.layer.training = self.layer.training, False
            try:
                return forward(*args)
            finally:
                self.layer.training = before

        return self.checkpoint(quiet, *args)
