"""Hook functions for TransformerLens: each factory returns `(hook_name, fn)` pairs.

Use them with `model.run_with_hooks(batch, fwd_hooks=record("L3N17", into))`, `with model.hooks(ablate(...))`, also
around `generate`, or on a bare TransformerBridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.neurons import Neuron, parse_neurons

__all__ = ["ablate", "record"]

HookPairs = list[tuple[str, Callable[..., Any]]]


def record(neurons: str | Neuron | Iterable[str | Neuron], into: dict[str, Any], append: bool = False) -> HookPairs:
    """Keep activations. The forward pass is left bit for bit as it is.

    Args:
        neurons: neuron ids or `Neuron`s, and hook names (`"blocks.3.mlp.hook_act"`), one or several.
        into: receives, under the id of a neuron as given, its activations [batch, pos] (or [image, patch]), negated
            for the negative pole; under a hook name, the whole tensor. Copies, without gradient.
        append: keep a list with one tensor for every forward pass (while generating: the prompt, then one pass for
            every token); else the last pass replaces the one before.

    Raises:
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in record(["L3N17", "L3N18-", "P0N5"], {})]
    ['blocks.3.mlp.hook_act', 'vision_projector.hook_post']
    """
    wanted: dict[str, dict[str, Neuron | None]] = {}
    for key, neuron in _parse(neurons):
        wanted.setdefault(key if neuron is None else neuron.hook, {})[key] = neuron

    def recorder(hook_name: str, keys: dict[str, Neuron | None]) -> Callable[..., None]:
        def fn(tensor: Tensor, hook: Any = None) -> None:
            _check_width(hook_name, tensor, [n for n in keys.values() if n is not None])
            for key, neuron in keys.items():
                # clone: what is captured without it changes when a later hook writes in place
                value = tensor.detach().clone() if neuron is None else tensor[..., neuron.index].detach().clone()
                value = -value if neuron is not None and neuron.pole == "-" else value
                if append:
                    into.setdefault(key, []).append(value)
                else:
                    into[key] = value

        return fn

    return [(name, recorder(name, keys)) for name, keys in wanted.items()]


def ablate(
    neurons: str | Neuron | Iterable[str | Neuron],
    to: float | Float[Tensor, "..."] = 0.0,
    where: Bool[Tensor, "batch pos"] | None = None,
) -> HookPairs:
    """Set neurons to a value.

    Args:
        neurons: neuron ids or `Neuron`s. The negative pole is the same coordinate: its value is the negation, so
            `to=0` does the same for both poles and `to=v` puts -v into the tensor.
        to: a number, a tensor of one value per neuron in the order of `neurons`, or a tensor that broadcasts to
            [batch, pos, neuron] (mean ablation, patching in of recorded values).
        where: True at positions to change, [batch, pos] as `batch.mask("visual")`, or [image, patch] for hooks
            that are indexed by image; default everywhere. While generating, it stands for the prompt: new tokens
            are left alone (without `where` they are changed too).

    Raises:
        ValueError: nothing is named, or `to` does not have one value per neuron; when run: `where` does not fit.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in ablate("L3N17, L4N2")]
    ['blocks.3.mlp.hook_act', 'blocks.4.mlp.hook_act']
    """
    parsed = parse_neurons(neurons)
    if not parsed:
        raise ValueError("ablate: no neurons are named")
    if isinstance(to, Tensor) and to.dim() > 0 and to.shape[-1] not in (1, len(parsed)):
        raise ValueError(f"ablate: `to` has {to.shape[-1]} values in its last dimension for {len(parsed)} neurons")
    by_hook: dict[str, list[int]] = {}
    for place, neuron in enumerate(parsed):
        by_hook.setdefault(neuron.hook, []).append(place)

    def ablator(hook_name: str, places: list[int]) -> Callable[..., Tensor]:
        mine = [parsed[p] for p in places]
        value = to
        if isinstance(to, Tensor) and to.dim() > 0 and to.shape[-1] == len(parsed):
            value = to[..., places]

        def fn(tensor: Tensor, hook: Any = None) -> Tensor:
            _check_width(hook_name, tensor, mine)
            return _write(tensor, mine, value, where)

        return fn

    return [(name, ablator(name, places)) for name, places in by_hook.items()]


def _write(tensor: Tensor, neurons: Sequence[Neuron], value: float | Tensor, where: Tensor | None) -> Tensor:
    index = torch.tensor([n.index for n in neurons], device=tensor.device)
    sign = torch.tensor([-1.0 if n.pole == "-" else 1.0 for n in neurons], device=tensor.device, dtype=tensor.dtype)
    new = torch.as_tensor(value, device=tensor.device, dtype=tensor.dtype) * sign
    old = tensor[..., index]
    if where is not None:
        if where.shape != tensor.shape[:2]:
            if tensor.shape[1] == 1 and tensor.shape[0] == where.shape[0]:
                return tensor  # one new token of a generation; `where` was about the prompt
            raise ValueError(
                f"ablate: where {tuple(where.shape)} does not fit activations {tuple(tensor.shape)}: it has to be "
                "their first two dimensions ([image, patch] at hooks indexed by image)"
            )
        new = torch.where(where.to(tensor.device)[..., None], new, old)
    result = tensor.clone()
    result[..., index] = new.expand_as(old)
    return result


def _check_width(hook_name: str, tensor: Tensor, neurons: Sequence[Neuron]) -> None:
    width = tensor.shape[-1]
    bad = next((n for n in neurons if not 0 <= n.index < width), None)
    if bad is not None:
        raise IndexError(f"{bad.id}: {hook_name} has {width} neurons, 0 to {width - 1}")


def _parse(neurons: str | Neuron | Iterable[str | Neuron]) -> list[tuple[str, Neuron | None]]:
    """Pairs of key and neuron; None for the name of a hook."""
    if isinstance(neurons, Neuron):
        return [(neurons.id, neurons)]
    if isinstance(neurons, str):
        neurons = [part.strip() for part in neurons.split(",") if part.strip()]
    found: list[tuple[str, Neuron | None]] = []
    for one in neurons:
        if isinstance(one, str) and ":" not in one and ("." in one or one.startswith("hook_")):
            found.append((one, None))
        else:
            found.append((one if isinstance(one, str) else one.id, Neuron.parse(one)))
    if not found:
        raise ValueError("record: no neurons are named")
    return found
