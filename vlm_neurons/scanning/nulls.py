"""Units with random weights in the same layers, looked at in the same pass.

A random direction of a gate is act(x R) with x what the layer's gates read and R of the same norms as their weights: it
sees what training made of pictures and texts below it, and was itself not trained. What a neuron has that few such
units have is training's (facts of random transformers: Heap et al., ICLR 2026, arXiv 2501.17727).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.held import weight_of
from vlm_neurons.sites import at
from vlm_neurons.sites.mlp import OfExpert

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
    """

    place: str
    hook: str
    gate: Float[Tensor, "d_model unit"]
    up: Float[Tensor, "d_model unit"] | None
    act: Callable[[Tensor], Tensor]
    _on: dict[torch.device, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    def __call__(self, read: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos unit"]:
        """Their values."""
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
        places: what is scanned. Experts have none: a router trained with them chooses their tokens.
        n: how many in a layer.
        seed: of the weights.
    """
    mlps, found = model.adapter.backbone, []
    hf = model.bridge.original_model
    for place in places:
        site, layer = at(place)
        if site.name not in SITES or isinstance(site, OfExpert) or not n or mlps.act is None:
            continue
        if site.name == "post" and mlps.up is None:
            continue
        generator = torch.Generator().manual_seed(seed * 1000 + layer)
        parts = [(mlps.into, mlps.of_gates)] + ([(str(mlps.up), mlps.of_up)] if site.name == "post" else [])
        drawn = [
            _like(own(weight_of(module_at(hf, dict(along(hf, path))[layer]))), n, generator) for path, own in parts
        ]
        act = module_at(hf, dict(along(hf, mlps.act))[layer])
        act = getattr(act, "original_component", act)  # a bridge's own would fire hooks
        up = drawn[1] if len(drawn) > 1 else None
        found.append(RandomUnits(place_of(place), f"blocks.{layer}.mlp.hook_in", drawn[0], up, act))
    return found


def _like(weight: Float[Tensor, "d d_model"], n: int, generator: torch.Generator) -> Float[Tensor, "d_model n"]:
    """Random directions with norms drawn from those of some rows."""
    norms = weight.float().norm(dim=1).cpu()
    drawn = torch.randn(weight.shape[1], n, generator=generator)
    return drawn / drawn.norm(dim=0) * norms[torch.randint(len(norms), (n,), generator=generator)]
