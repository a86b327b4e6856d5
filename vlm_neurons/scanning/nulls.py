"""Units with random weights in the same layers, looked at in the same pass.

A random direction of a gate is act(x R) with x what the layer's gates read and R of the same norms as their weights: it
sees what training made of pictures and texts below it, and was itself not trained. What a neuron has that few such
units have is training's (facts of random transformers: Heap et al., ICLR 2026, arXiv 2501.17727). Those of an expert
are at the tokens that chose it: what its neurons have because of the tokens that a router sends them, they have too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.experts import experts_of
from vlm_neurons.models.held import weight_of
from vlm_neurons.sites import at
from vlm_neurons.sites.mlp import CHOSEN, OfExpert

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

SITES = ("gate", "post")  # of which there are random units


@dataclass(frozen=True)
class RandomUnits:
    """Random units of one layer of one site.

    Attributes:
        place: what their sums are called.
        hook: what they read.
        gate: random weights of gates.
        up: random weights of what gates are multiplied by; None at site gate.
        act: the layer's activation function.
        expert: the hook of the experts that were chosen, and the number of theirs; None outside of experts.
    """

    place: str
    hook: str
    gate: Float[Tensor, "d_model unit"]
    up: Float[Tensor, "d_model unit"] | None
    act: Callable[[Tensor], Tensor]
    expert: tuple[str, int] | None = None
    _on: dict[torch.device, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    @property
    def hooks(self) -> tuple[str, ...]:
        """What they are told from, in the order in which it fires."""
        return (self.hook,) if self.expert is None else (self.hook, self.expert[0])

    def of(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "row pos unit"], Bool[Tensor, "row pos unit"] | None]:
        """Their values, from what `hooks` hold, and where they are defined (None: everywhere)."""
        read = tensors[self.hook]
        if self.expert is None:
            return self(read), None
        hook, number = self.expert
        there = (tensors[hook] == number).any(-1)
        values = torch.zeros(*there.shape, self.gate.shape[1], device=read.device)
        values[there] = self(read[there])
        return values, there[..., None].expand_as(values)

    def __call__(self, read: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token unit"]:
        """Their values where they read something."""
        x = read.float()
        if x.device not in self._on:  # once, not in every batch
            self._on[x.device] = self.gate.to(x.device), None if self.up is None else self.up.to(x.device)
        gate, up = self._on[x.device]
        values = self.act(x @ gate)
        return values if up is None else values * (x @ up)


def place_of(place: str) -> str:
    """What the sums of the random units are called that go with a place."""
    return f"random/{place}"


def random_units(model: HookedVLM, places: Sequence[str], n: int, seed: int = 0) -> list[RandomUnits]:
    """Random units for every place that can have some.

    Args:
        model: whose layers they are in.
        places: what is scanned.
        n: how many in a layer; where it has experts, in each of them.
        seed: of the weights.
    """
    found = []
    for place in places if n else ():
        site, layer = at(place)
        if site.name not in SITES:
            continue
        expert = (CHOSEN.format(layer=layer), site.expert) if isinstance(site, OfExpert) else None
        act, weights = _of_layer(model, layer) if expert is None else _of_expert(model, layer, expert[1])
        weights = weights if site.name == "post" else weights[:1]
        if act is None or len(weights) < 1 + (site.name == "post"):
            continue
        generator = torch.Generator().manual_seed(seed * 1000 + layer + 10**6 * (1 + expert[1] if expert else 0))
        gate, *up = (_like(weight, n, generator) for weight in weights)
        hook = f"blocks.{layer}.mlp.hook_in"
        found.append(RandomUnits(place_of(place), hook, gate, up[0] if up else None, act, expert))
    return found


def _of_layer(model: HookedVLM, layer: int) -> tuple[Any, list[Float[Tensor, "d d_model"]]]:
    """Activation function (None: it is none of its own), and weights of gates and of what they are multiplied by."""
    mlps, hf = model.adapter.backbone, model.bridge.original_model
    if mlps.act is None:
        return None, []
    act = module_at(hf, dict(along(hf, mlps.act))[layer])
    parts = [(mlps.into, mlps.of_gates)] + ([] if mlps.up is None else [(mlps.up, mlps.of_up)])
    weights = [own(weight_of(module_at(hf, dict(along(hf, path))[layer]))) for path, own in parts]
    return getattr(act, "original_component", act), weights  # a bridge's own would fire hooks


def _of_expert(model: HookedVLM, layer: int, number: int) -> tuple[Any, list[Float[Tensor, "d d_model"]]]:
    """The same of an expert."""
    experts = {i: one for i, _, one in experts_of(model.bridge.original_model, model.adapter)}[layer]
    return experts.act_fn, [*experts.gate_up_proj[number].detach().chunk(2)]


def _like(weight: Float[Tensor, "d d_model"], n: int, generator: torch.Generator) -> Float[Tensor, "d_model n"]:
    """Random directions with norms drawn from those of some rows."""
    norms = weight.float().norm(dim=1).cpu()
    drawn = torch.randn(weight.shape[1], n, generator=generator)
    return drawn / drawn.norm(dim=0) * norms[torch.randint(len(norms), (n,), generator=generator)]
