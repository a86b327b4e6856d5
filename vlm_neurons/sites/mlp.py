"""Units that are coordinates of a hook: the neurons of MLPs, and those of any other hook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.sites.protocol import Address, IndexedBy, Site, Tensors, Weights

# Hooks whose tensors have one entry per image, not per row of the batch.
IMAGE_HOOKS = ("vision_encoder.", "vision_projector.", "vision.", "projector.")
# Of a layer with experts: which were chosen for every token, and what their outputs are multiplied by.
EXPERTS = "blocks.{layer}.mlp.experts."
CHOSEN, WEIGHTS = EXPERTS + "hook_chosen", EXPERTS + "hook_weights"


class Coordinates(Site):
    """Units that are the last dimension of one hook. Nothing is copied on reading."""

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "*batch_pos unit"], None]:
        """The tensor itself."""
        (tensor,) = tensors.values()
        return tensor, None

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "*batch_pos unit"]
    ) -> dict[str, Tensor]:
        """The tensor with other values in these coordinates."""
        ((hook, tensor),) = tensors.items()
        if units is None:
            return {hook: values}
        edited = tensor.clone()
        edited[..., units] = values
        return {hook: edited}


@dataclass(frozen=True)
class MLP(Coordinates):
    """Neurons of one MLP per layer.

    Attributes:
        name: `"gate"`, `"post"`, `"projector"` or `"vision"`.
        prefix: what starts an id, before the layer.
        pattern: hook name with `{layer}`.
        indexed_by: see `Site`.
        writes: name of the hook whose coordinates are multiplied by columns of the matrix that follows, and added to
            the residual stream of the backbone; None: they are not.
        signed: see `Site`; the tensor takes both signs by a large amount.
        layered: False where layer 0 is the rule, so that a mask of neurons names no layer.
        of_experts: hook name of the same neurons of an expert, with `{layer}` and `{expert}`.
    """

    name: str
    prefix: str
    pattern: str
    indexed_by: IndexedBy
    writes: str | None = None
    signed: bool = False
    layered: bool = True
    of_experts: str | None = None

    def layers(self, points: Iterable[str]) -> list[int]:
        """Those whose hook is among the points."""
        return sorted(layer for name in points if (layer := self.layer_of(name)) is not None)

    def places(self, points: Iterable[str]) -> list[str]:
        """Layer by layer the neurons that every token has, then those of each expert."""
        points = list(points)
        found = [(layer, -1) for layer in self.layers(points)]
        routed = (at for name in points if (at := expert_at(name)) is not None and at[0].name == self.name)
        found += [(layer, site.expert) for site, layer in routed]
        return [self.place(layer) if e < 0 else self.of_expert(e).place(layer) for layer, e in sorted(found)]

    def of_expert(self, expert: int) -> OfExpert:
        """The neurons of an expert, as a site.

        >>> vn.sites.named("gate").of_expert(5).place(3)
        'blocks.3.mlp.experts.5.hook_act'
        """
        return _of_expert(self, expert)

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """One per layer."""
        return [self.place(layer) for layer in layers]

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """Columns of the matrix that follows."""
        return super().directions(weights, layer) if self.writes is None else weights(self.name, layer).T

    def written(self, layer: int) -> str:
        """The hook that is multiplied by that matrix."""
        return self.place(layer) if self.writes is None else self.writes.format(layer=layer)

    def fingerprint(self) -> str:
        """The hook names: values come from the model alone."""
        return self.pattern

    def place(self, layer: int) -> str:
        """The hook of one layer.

        >>> vn.sites.named("gate").place(3)
        'blocks.3.mlp.hook_act'
        """
        return self.pattern.format(layer=layer)

    def layer_of(self, place: str) -> int | None:
        """The layer of a hook of this site."""
        before, _, after = self.pattern.partition("{layer}")
        middle = place[len(before) : len(place) - len(after)]
        return int(middle) if place.startswith(before) and place.endswith(after) and middle.isdigit() else None

    def parse(self, id: str) -> Address | None:
        """Read `L3N17` and the like."""
        found = re.fullmatch(rf"{self.prefix}(\d+)(?:E(\d+))?N(\d+)(-?)", id)
        if found is None or (found[2] and self.of_experts is None):
            return None
        site = self.of_expert(int(found[2])) if found[2] else self
        return Address(site.place(int(found[1])), int(found[3]), "-" if found[4] else "+")

    def id(self, address: Address) -> str:
        """Write `L3N17` and the like."""
        return f"{self.prefix}{self.layer_of(address.place)}N{address.unit}{'-' if address.pole == '-' else ''}"


@dataclass(frozen=True)
class OfExpert(MLP):
    """Neurons of one expert per layer: `L3E5N17`. They are defined at the tokens that chose the expert, and absent at
    all others.

    Attributes:
        expert: its number.
    """

    expert: int = 0

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """Which experts were chosen, and the neurons, per layer."""
        return [hook for layer in layers for hook in (CHOSEN.format(layer=layer), self.place(layer))]

    def read(  # type: ignore[override]
        self, tensors: Tensors
    ) -> tuple[Float[Tensor, "batch pos unit"], Bool[Tensor, "batch pos unit"]]:
        """The tensor, and where the expert was chosen."""
        chosen, values = tensors.values()
        return values, (chosen == self.expert).any(-1, keepdim=True).expand_as(values)

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "batch pos unit"]
    ) -> dict[str, Tensor]:
        """The tensor with other values in these coordinates; what stands where the expert was not chosen goes
        nowhere."""
        _, (hook, tensor) = tensors.items()
        return super().edit({hook: tensor}, units, values)

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """Columns of the expert's matrix that follows."""
        return weights(f"experts.{self.expert}", layer).T

    def written(self, layer: int) -> str:
        """The products of post and the router's weight of the expert."""
        return Weighted(self.expert).place(layer)

    def fingerprint(self) -> str:
        """The same for all experts."""
        return str(self.of_experts)

    def id(self, address: Address) -> str:
        """Write `L3E5N17` and the like."""
        layer = self.layer_of(address.place)
        return f"{self.prefix}{layer}E{self.expert}N{address.unit}{'-' if address.pole == '-' else ''}"


@dataclass(frozen=True)
class Weighted(Coordinates):
    """What an expert's `directions` are multiplied by, to be read alone: its neurons of site post times the weight that
    the router gave the expert."""

    expert: int
    signed: bool = True
    indexed_by: IndexedBy = "row"

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `Site`."""
        return f"weighted.{self.expert}"

    def layers(self, points: Iterable[str]) -> list[int]:
        """It is no site of its own."""
        return []

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """Which experts were chosen, their weights, and the neurons, per layer."""
        post = MLPS[1].of_expert(self.expert)
        return [hook for i in layers for hook in (CHOSEN.format(layer=i), WEIGHTS.format(layer=i), post.place(i))]

    def read(  # type: ignore[override]
        self, tensors: Tensors
    ) -> tuple[Float[Tensor, "batch pos unit"], Bool[Tensor, "batch pos unit"]]:
        """The products, and where the expert was chosen."""
        chosen, weights, post = tensors.values()
        mine = chosen == self.expert
        weight = weights.masked_fill(~mine, 0).sum(-1, keepdim=True)
        return post * weight, mine.any(-1, keepdim=True).expand_as(post)

    def edit(self, tensors: Tensors, units: Tensor | None, values: Tensor) -> dict[str, Tensor]:
        """Refused."""
        raise ValueError("edit an expert's neurons at site post, or hook_weights")

    def fingerprint(self) -> str:
        """The hook names: values come from the model alone."""
        return self.name

    def place(self, layer: int) -> str:
        """Of a layer."""
        return f"{EXPERTS.format(layer=layer)}{self.expert}.weighted"


def expert_at(place: str) -> tuple[OfExpert | Weighted, int] | None:
    """Expert's site and layer of a place; None for other places.

    >>> site, layer = expert_at("blocks.3.mlp.experts.5.hook_post")
    >>> site.name, site.expert, layer
    ('post', 5, 3)
    """
    found = re.fullmatch(r"blocks\.(\d+)\.mlp\.experts\.(\d+)\.(hook_act|hook_post|weighted)", place)
    if found is None:
        return None
    layer, expert = int(found[1]), int(found[2])
    if found[3] == "weighted":
        return Weighted(expert), layer
    return MLPS[found[3] == "hook_post"].of_expert(expert), layer


@cache
def _of_expert(site: MLP, expert: int) -> OfExpert:
    if site.of_experts is None:
        raise ValueError(f"site {site.name!r} has no experts")
    pattern = site.of_experts.replace("{expert}", str(expert))
    return OfExpert(site.name, site.prefix, pattern, "row", None, site.signed, True, site.of_experts, expert)


POST, PROJECTOR = "blocks.{layer}.mlp.hook_post", "projector.{layer}.hook_post"
MLPS = (
    # SiLU(gate_proj(x)): the neuron of Xu, Lan, Lu 2025 (section 3.2); it is multiplied by up_proj(x) before it writes.
    MLP("gate", "L", "blocks.{layer}.mlp.hook_act", "row", POST, of_experts=EXPERTS + "{expert}.hook_act"),
    # SiLU(gate_proj(x)) * up_proj(x), the input of down_proj: TransformerLens' `mlp.hook_post`.
    MLP("post", "post:L", POST, "row", POST, signed=True, of_experts=EXPERTS + "{expert}.hook_post"),
    MLP("projector", "P", PROJECTOR, "image", PROJECTOR, layered=False),
    MLP("vision", "V", "vision.{layer}.mlp.hook_post", "image"),
)


@dataclass(frozen=True)
class AnyHook(Coordinates):
    """Coordinates of a hook that is no site, with ids such as `blocks.3.hook_mlp_out:17`.

    Attributes:
        name: the hook's name.
        signed: True: nothing is known about its sign.
    """

    name: str
    signed: bool = True

    @property
    def indexed_by(self) -> IndexedBy:  # type: ignore[override]
        """See `Site`."""
        return "image" if self.name.startswith(IMAGE_HOOKS) else "row"

    @property
    def layered(self) -> bool:
        """A hook is one layer."""
        return False

    @property
    def layer(self) -> int:
        """The number in its name; 0 where there is none."""
        number = re.search(r"\.(\d+)\.", self.name)
        return int(number[1]) if number else 0

    def layers(self, points: Iterable[str]) -> list[int]:
        """Its own, if the hook is there."""
        return [self.layer] if self.name in points else []

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """The hook."""
        return [self.name]

    def fingerprint(self) -> str:
        """The hook's name."""
        return self.name

    def place(self, layer: int) -> str:
        """The hook."""
        return self.name

    def layer_of(self, place: str) -> int | None:
        """Its layer, for its own name."""
        return self.layer if place == self.name else None

    def parse(self, id: str) -> Address | None:
        """Read `HOOK:17`."""
        found = re.fullmatch(r"([A-Za-z_][\w.]*):(\d+)(-?)", id)
        if found is None or found[1] != self.name:
            return None
        return Address(self.name, int(found[2]), "-" if found[3] else "+")

    def id(self, address: Address) -> str:
        """Write `HOOK:17`."""
        return f"{self.name}:{address.unit}{'-' if address.pole == '-' else ''}"
