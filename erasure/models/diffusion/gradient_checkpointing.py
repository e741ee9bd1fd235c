"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointing(backbone: Any, encoders: Sequence[Any]) -> Iterator[None]:
    """Within it, a network of diffusers and text encoders of transformers keep few activations."""
    layers = [
        layer
        for encoder in encoders
        for layer in encoder.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    ]
    backbone.enable_gradient_checkpointing()
    for encoder in encoders:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # transformers asks for it; the dropout inside stays off
    try:
        yield
    finally:
        backbone.disable_gradient_checkpointing()
        for encoder in encoders:
            encoder.gradient_checkpointing_disable()
        for layer in layers:
            layer.training = False
