"""Keeping activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vlm_neurons.hooks.positions import HookPairs
from vlm_neurons.hooks.selecting import Neurons, Target, targets


def record(neurons: Neurons, into: dict[str, Any], append: bool = False) -> HookPairs:
    """Keep activations. The forward pass is left bit for bit as it is.

    Args:
        neurons: see `Neurons`; hook names (`"blocks.3.mlp.hook_act"`) too, one or several.
        into: receives, under the id of a neuron as given, its activations [batch, pos] (or [image, patch]), negated
            for the negative pole; under a hook name, the whole tensor. Copies, without gradient.
        append: keep a list with one tensor for every forward pass (while generating: the prompt, then one pass for
            every token); else the last pass replaces the one before.

    Raises:
        ValueError: nothing is named.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in record(["L3N17", "L3N18-", "P0N5"], {})]
    ['blocks.3.mlp.hook_act', 'projector.0.hook_post']
    """
    return [(target.hook, _recorder(target, into, append)) for target in targets(neurons, "record")]


def _recorder(target: Target, into: dict[str, Any], append: bool) -> Callable[..., None]:
    def keep(key: str, value: Tensor) -> None:
        if append:
            into.setdefault(key, []).append(value)
        else:
            into[key] = value

    def fn(tensor: Tensor, hook: Any = None) -> None:
        target.check(tensor)
        # clone: what is captured without it changes when a later hook writes in place
        if target.neurons is None:
            keep(target.hook, tensor.detach().clone())
            return
        for key, neuron in zip(target.keys, target.neurons, strict=True):
            value = tensor[..., neuron.index].detach().clone()
            keep(key, -value if neuron.pole == "-" else value)

    return fn
