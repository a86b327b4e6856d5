"""A cheap fingerprint of a model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from vlm_neurons.models.held import adapters_of, numbers
from vlm_neurons.models.template import template_of

_SAMPLED = 64


# What saving, loading or wrapping changes in a config without changing what the model computes.
_VOLATILE = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "dtype",
    "output_attentions",
    "torch_dtype",
    "transformers_version",
}


def _lasting(settings: Any) -> Any:
    if isinstance(settings, dict):
        kept = {str(k): v for k, v in settings.items() if v is not None and k not in _VOLATILE}
        return {k: _lasting(v) for k, v in kept.items() if not k.startswith("_")}
    return [_lasting(v) for v in settings] if isinstance(settings, (list, tuple)) else settings


def fingerprint(model: nn.Module, config: Any, processor: Any) -> str:
    """SHA-256 over what decides a model's activations: the config, the image processor's settings, the chat template,
    and of every weight tensor its name, shape, data type and up to 64 values at equal steps.

    A change of single values between the steps goes unnoticed; training or loading another checkpoint does not.
    The same for a model before and after it is wrapped in a bridge, and on any device.
    """
    digest = hashlib.sha256()
    settings = _lasting(config.to_dict())
    images = processor.image_processor.to_dict()
    template = template_of(processor) or None
    digest.update(json.dumps([settings, images, template], sort_keys=True, default=str).encode())
    if adapters := adapters_of(model):
        digest.update(repr(adapters).encode())
    with torch.no_grad():
        named = {n.replace("_original_component.", ""): p for n, p in model.named_parameters()}
        for name in sorted(named):
            values = numbers(named[name].detach()).flatten()
            step = max(1, values.numel() // _SAMPLED)
            sample = values[::step][:_SAMPLED].to("cpu", torch.float32)
            digest.update(f"{name} {tuple(named[name].shape)} {values.dtype}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
