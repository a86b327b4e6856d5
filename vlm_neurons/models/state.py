"""What a model is to the last bit of its weights."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from vlm_neurons.models.fused import hooked
from vlm_neurons.models.held import numbers

if TYPE_CHECKING:
    from vlm_neurons.models.hooked import HookedVLM


@torch.no_grad()
def state_of(model: HookedVLM) -> str:
    """SHA-256 over the fingerprint and every weight and buffer to its last bit, so that one that was edited by hand
    shows; another one every time while hooks are on the model. It takes as long as reading all weights does.

    >>> state_of(model) == state_of(model)
    True
    """
    digest = hashlib.sha256(json.dumps([model.fingerprint(), hooked(model.bridge)]).encode())
    own = model.bridge.original_model  # buffers count too: a router's bias, frequencies of positions
    for _, weight in (*sorted(own.named_parameters()), *sorted(own.named_buffers())):
        values = numbers(weight.detach()).contiguous().flatten().view(torch.uint8)
        digest.update(values.cpu().numpy().data)
    return digest.hexdigest()
