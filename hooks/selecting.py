"""What may stand for neurons: ids, `Neuron`s, rows of the classification table, masks, and whole hooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_neurons import sites
from vlm_neurons.units import Neuron

Neurons = Any
"""Ids (one, several in a string with commas, or an iterable), `Neuron`s, the classification table or rows of it, hook
names (all coordinates of that hook), a bool mask [layer, neuron] of the gate site, or `{site or hook name: mask}`."""


@dataclass(frozen=True)
class Target:
    """The part of a selection at one hook.

    Attributes:
        hook: hook name.
        neurons: the neurons there, in the order given; None for all coordinates.
        places: the place of each in the whole selection.
        keys: what each was called (`record` files it under that).
    """

    hook: str
    neurons: tuple[Neuron, ...] | None
    places: tuple[int, ...]
    keys: tuple[str, ...]

    def index(self, device: torch.device) -> Tensor:
        """Coordinates [neuron] in the last dimension."""
        assert self.neurons is not None
        return torch.tensor([n.index for n in self.neurons], device=device)

    def sign(self, tensor: Tensor) -> Tensor:
        """-1 for negative poles, [neuron]."""
        assert self.neurons is not None
        return torch.tensor([-1.0 if n.pole == "-" else 1.0 for n in self.neurons], device=tensor.device).to(tensor)

    def check(self, tensor: Tensor) -> None:
        """Raises IndexError if the tensor lacks a coordinate."""
        width = tensor.shape[-1]
        bad = next((n for n in self.neurons or () if not 0 <= n.index < width), None)
        if bad is not None:
            raise IndexError(f"{bad.id}: {self.hook} has {width} neurons, 0 to {width - 1}")


def select(neurons: Neurons, caller: str) -> list[tuple[str, Neuron | None]]:
    """Pairs of key and neuron, in the order given; None for a whole hook, whose name the key is.

    Raises:
        ValueError: nothing is named, or an id has no known form; the message says which forms there are.
        TypeError: a mask that is not bool.

    >>> [key for key, _ in select({"projector": torch.tensor([True, False, True])}, "record")]
    ['P0N0', 'P0N2']
    """
    try:
        found = [(key, one) for key, one in _each(neurons)]
    except _NoNeurons as error:
        raise ValueError(
            f"{caller}: {error.args[0]!r} names no neurons: write ids such as 'L3N17', hook names, rows of the "
            "classification table or a bool mask [layer, neuron]"
        ) from None
    if not found:
        raise ValueError(f"{caller}: no neurons are named")
    return found


def targets(neurons: Neurons, caller: str) -> list[Target]:
    """A selection by hook. A hook that is named as a whole has a target of its own."""
    chosen = select(neurons, caller)
    by_hook: dict[str, list[int]] = {}
    found: list[Target] = []
    for place, (key, neuron) in enumerate(chosen):
        if neuron is None:
            found.append(Target(key, None, (place,), (key,)))
        else:
            by_hook.setdefault(neuron.hook, []).append(place)
    for hook, places in by_hook.items():
        mine = tuple(n for p in places if (n := chosen[p][1]) is not None)
        found.append(Target(hook, mine, tuple(places), tuple(chosen[p][0] for p in places)))
    return sorted(found, key=lambda t: t.places[0])


class _NoNeurons(Exception):
    """Carries what was given in the place of neurons."""


def _each(neurons: Neurons) -> Iterable[tuple[str, Neuron | None]]:
    if isinstance(neurons, Neuron):
        yield neurons.id, neurons
    elif isinstance(neurons, str):
        for part in neurons.split(","):
            if part.strip():
                yield _one(part.strip())
    elif isinstance(neurons, Mapping):
        for site, mask in neurons.items():
            yield from _masked(mask, site)
    elif isinstance(neurons, Tensor | np.ndarray) and not _of_strings(neurons):
        yield from _masked(neurons, "gate")
    elif hasattr(neurons, "neuron"):  # the table, or one row of it
        yield from _each(neurons.neuron if isinstance(neurons.neuron, str) else list(neurons.neuron))
    elif isinstance(neurons, Iterable):
        for one in neurons:
            yield from _each(one)
    else:
        raise _NoNeurons(neurons)


def _of_strings(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "OUT"


def _one(text: str) -> tuple[str, Neuron | None]:
    if ":" not in text and ("." in text or text.startswith("hook_")):
        return text, None
    return text, Neuron.parse(text)


def _masked(mask: Any, site: str) -> Iterable[tuple[str, Neuron]]:
    """Neurons where a mask is True: [layer, neuron] for a site with layers, else [neuron]."""
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask of neurons is bool, got {mask.dtype}: write mask > threshold, or neuron ids")
    layered = isinstance(found := sites.named(site), sites.MLP) and found.layered
    if mask.dim() != (2 if layered else 1):
        shape = "[layer, neuron]" if layered else "[neuron]"
        raise ValueError(f"a mask for {site!r} has the shape {shape}, got {tuple(mask.shape)}")
    for place in mask.nonzero().tolist():
        neuron = Neuron(found.place(place[0] if layered else 0), place[-1])
        yield neuron.id, neuron
