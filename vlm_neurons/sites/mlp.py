"""Units that are coordinates of a hook: the neurons of MLPs, and those of any other hook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vlm_neurons.sites.protocol import Address, IndexedBy, Site, Tensors, Weights

# Hooks whose tensors have one entry per image, not per row of the batch.
IMAGE_HOOKS = ("vision_encoder.", "vision_projector.", "vision.", "projector.")


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
    """

    name: str
    prefix: str
    pattern: str
    indexed_by: IndexedBy
    writes: str | None = None
    signed: bool = False
    layered: bool = True

    def layers(self, points: Iterable[str]) -> list[int]:
        """Those whose hook is among the points."""
        return sorted(layer for name in points if (layer := self.layer_of(name)) is not None)

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
        found = re.fullmatch(rf"{self.prefix}(\d+)N(\d+)(-?)", id)
        if found is None:
            return None
        return Address(self.place(int(found[1])), int(found[2]), "-" if found[3] else "+")

    def id(self, address: Address) -> str:
        """Write `L3N17` and the like."""
        return f"{self.prefix}{self.layer_of(address.place)}N{address.unit}{'-' if address.pole == '-' else ''}"


POST, PROJECTOR = "blocks.{layer}.mlp.hook_post", "projector.{layer}.hook_post"
MLPS = (
    # SiLU(gate_proj(x)): the neuron of Xu, Lan, Lu 2025 (section 3.2); it is multiplied by up_proj(x) before it writes.
    MLP("gate", "L", "blocks.{layer}.mlp.hook_act", "row", POST),
    # SiLU(gate_proj(x)) * up_proj(x), the input of down_proj: TransformerLens' `mlp.hook_post`.
    MLP("post", "post:L", POST, "row", POST, signed=True),
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
