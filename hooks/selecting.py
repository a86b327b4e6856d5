"""What may stand for neurons: ids, `Neuron`s, rows of the classification table, masks, and whole hooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlm_neurons import sites
from vlm_neurons._checks import short
from vlm_neurons.units import Neuron, of_rows


class Rows(Protocol):
    """The classification table, some of its rows, or one: `neuron` holds ids."""

    @property
    def neuron(self) -> Any:
        """One id, or several."""
        ...


class Cache(Protocol):
    """An ActivationCache, or a dict, by hook name."""

    def __getitem__(self, hook: str, /) -> Tensor: ...


Mask = Tensor | np.ndarray  # bool
Neurons = str | Neuron | Rows | Iterable[str | Neuron] | Mask | Mapping[str, Mask]
"""Ids (one, several in a string with commas, or an iterable), `Neuron`s, the classification table or rows of it, hook
names (all coordinates of that hook), a bool mask [layer, neuron] of the gate site, or `{site or hook name: mask}`."""


@dataclass(frozen=True)
class Target:
    """The part of a selection at one layer of a site.

    Attributes:
        place: what names the layer, a hook where units are coordinates of one; see `vlm_neurons.sites.Address`.
        neurons: the neurons there, in the order given; None for all units.
        places: the place of each in the whole selection.
        keys: what each was called (`record` files it under that).
    """

    place: str
    neurons: tuple[Neuron, ...] | None
    places: tuple[int, ...]
    keys: tuple[str, ...]

    @cached_property
    def _at(self) -> tuple[sites.Site, int]:
        return sites.at(self.place)

    @property
    def site(self) -> sites.Site:
        """The kind of unit."""
        return self._at[0]

    @cached_property
    def hooks(self) -> list[str]:
        """What the units are read from, in the order in which it fires."""
        return self.site.hooks([self._at[1]])

    @cached_property
    def edited(self) -> str:
        """The hook that an edit changes."""
        return self.site.edited(self._at[1])

    @property
    def image_hook(self) -> str | None:
        """The hook, where the units' values are by image, not [batch, pos]."""
        return self.hooks[0] if self.site.indexed_by == "image" else None

    def index(self, device: torch.device) -> Tensor:
        """Units [neuron]."""
        assert self.neurons is not None
        return torch.tensor([n.index for n in self.neurons], device=device)

    def sign(self, tensor: Tensor) -> Tensor:
        """-1 for negative poles, [neuron]."""
        assert self.neurons is not None
        return torch.tensor([-1.0 if n.pole == "-" else 1.0 for n in self.neurons], device=tensor.device).to(tensor)

    def layer(self, tensors: Cache) -> tuple[Tensor, Tensor | None]:
        """Values of all units of the layer, and where they are defined (None: everywhere)."""
        return self.site.read({hook: tensors[hook] for hook in self.hooks})

    def read(self, tensors: Cache) -> tuple[Tensor, Tensor | None]:
        """Values of the units that are meant, and where they are defined.

        Raises:
            IndexError: there is no such unit.
        """
        return self.of(self.layer(tensors))

    def of(self, layer: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """As `read`, from what `layer` gave."""
        values, defined = layer
        return self.chosen(values), None if defined is None else self.chosen(defined)

    def recorded(self, tensors: Cache) -> Tensor:
        """As `read`, and 0 where a unit is not defined."""
        values, defined = self.read(tensors)
        return values if defined is None else values.masked_fill(~defined, 0)

    def edit(self, tensors: Mapping[str, Tensor], units: Tensor | None, values: Tensor) -> Tensor:
        """The edited hook's tensor with other values of some units (None: of all)."""
        return self.site.edit(tensors, units, values)[self.edited]

    def chosen(self, values: Tensor) -> Tensor:
        """Of all units of the layer those that are meant.

        Raises:
            IndexError: one of them is not there.
        """
        if self.neurons is None:
            return values
        width = values.shape[-1]
        bad = next((n for n in self.neurons if not 0 <= n.index < width), None)
        if bad is not None:
            raise IndexError(f"{bad.id}: {self.place} has {width} neurons, 0 to {width - 1}")
        return values[..., self.index(values.device)]


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
            f"{caller}: {short(error.args[0])} names no neurons: write ids such as 'L3N17', hook names, rows of the "
            "classification table or a bool mask [layer, neuron]"
        ) from None
    if not found:
        raise ValueError(f"{caller}: no neurons are named")
    return found


def targets(neurons: Neurons, caller: str) -> list[Target]:
    """A selection by place. A hook that is named as a whole has a target of its own."""
    chosen = select(neurons, caller)
    by_place: dict[str, list[int]] = {}
    found: list[Target] = []
    for place, (key, neuron) in enumerate(chosen):
        if neuron is None:
            found.append(Target(key, None, (place,), (key,)))
        else:
            by_place.setdefault(neuron.hook, []).append(place)
    for name, places in by_place.items():
        mine = tuple(n for p in places if (n := chosen[p][1]) is not None)
        found.append(Target(name, mine, tuple(places), tuple(chosen[p][0] for p in places)))
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
    elif (ids := of_rows(neurons)) is not None:
        yield from _each(ids)
    elif isinstance(neurons, Mapping):
        for site, mask in neurons.items():
            yield from _masked(mask, site)
    elif isinstance(neurons, Tensor) or (isinstance(neurons, np.ndarray) and neurons.dtype.kind not in "OUT"):
        yield from _masked(neurons, "gate")
    elif isinstance(neurons, Iterable):
        for one in neurons:
            yield from _each(one)
    else:
        raise _NoNeurons(neurons)


def _one(text: str) -> tuple[str, Neuron | None]:
    if (":" not in text and ("." in text or text.startswith("hook_"))) or sites.site_of_hook(text) is not None:
        return text, None
    return text, Neuron.parse(text)


def _masked(given: Mask, site: str) -> Iterable[tuple[str, Neuron]]:
    """Neurons where a mask is True: [layer, neuron] for a site with layers, else [neuron]."""
    mask = torch.as_tensor(given)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask of neurons is bool, got {mask.dtype}: write mask > threshold, or neuron ids")
    found = sites.named(site)
    layered = found.layered
    if mask.dim() != (2 if layered else 1):
        shape = "[layer, neuron]" if layered else "[neuron]"
        raise ValueError(f"a mask for {site!r} has the shape {shape}, got {tuple(mask.shape)}")
    for place in mask.nonzero().tolist():
        neuron = Neuron(found.place(place[0] if layered else 0), place[-1])
        yield neuron.id, neuron
