"""Keeping activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_neurons.hooks.positions import HookPairs
from vlm_neurons.hooks.selecting import Neurons, Target, targets
from vlm_neurons.models.reading import together


def record(neurons: Neurons, into: dict[str, Any], append: bool = False) -> HookPairs:
    """Keep activations. The forward pass is left bit for bit as it is.

    Args:
        neurons: see `Neurons`; hook names (`"blocks.3.mlp.hook_act"`) too, one or several.
        into: receives, under the id of a neuron as given, its activations [batch, pos] (or [image, patch]), negated
            for the negative pole; under a hook name, the whole tensor. Copies, without gradient. NaN where a unit
            is not defined, such as the neuron of an expert that was not chosen.
        append: keep a list with one tensor for every forward pass (while generating: the prompt, then one pass for
            every token); else the last pass replaces the one before.

    Raises:
        ValueError: nothing is named.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in record(["L3N17", "L3N18-", "P0N5"], {})]
    ['blocks.3.mlp.hook_act', 'projector.0.hook_post']
    """
    found = targets(neurons, "record")
    return [pair for target in found for pair in together(target.hooks, _recorder(target, into, append))]


def _recorder(target: Target, into: dict[str, Any], append: bool) -> Callable[[dict[str, Tensor]], None]:
    def keep(key: str, value: Tensor) -> None:
        if append:
            into.setdefault(key, []).append(value)
        else:
            into[key] = value

    def fn(tensors: dict[str, Tensor]) -> None:
        values, defined = target.read(tensors)
        values = values.detach() if defined is None else values.detach().masked_fill(~defined, torch.nan)
        if target.neurons is None:
            keep(target.place, values.clone())  # else it would change when a later hook writes in place
            return
        for key, value in zip(target.keys, (values * target.sign(values)).unbind(-1), strict=True):
            keep(key, value)

    return fn
