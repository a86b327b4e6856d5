"""Attention heads as units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.sites.protocol import Address, IndexedBy, Site, Tensors, Weights

# Of a layer: what its heads write is z @ W_O, and norms of it need W_O only as the products of its rows.
PRODUCTS, Z = "blocks.{layer}.attn.hook_products", "blocks.{layer}.attn.hook_z"


@dataclass(frozen=True)
class AttentionHeads(Site):
    """The heads of the backbone's attention, with ids `L5H7`. It is known by its name, `"heads"`, too.

    A head's value at a position is the norm of what it adds to the residual stream there: of z_h W_O_h, where z_h [pos,
    d_head] is the mean of values that the head attends to, and W_O_h [d_head, d_model] its part of the output
    projection (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", section "Attention heads are
    independent and additive"). The projection's bias is no head's. Where a norm stands behind attention (Gemma), this
    is what enters it.

    An edit multiplies z_h, so that what the head adds keeps its direction and gets the norm that is asked for; where a
    head adds nothing it has no direction, and stays. Values are computed in float32 at least.

    >>> found = vn.scan(model, data, site=["gate", vn.sites.AttentionHeads()], top_n=4, out="heads", progress=False)
    >>> vn.classify(found).neuron.tolist()[-3:]
    ['L3H1', 'L3H2', 'L3H3']
    >>> from vlm_neurons.hooks import ablate, record
    >>> seen = {}
    >>> logits = model.run_with_hooks(batch, fwd_hooks=ablate("L1H2", to=3.0) + record("L1H2", seen))
    >>> bool((seen["L1H2"] - 3).abs().max() < 1e-4)
    True
    """

    name: str = "heads"
    signed: bool = False
    indexed_by: IndexedBy = "row"

    def layers(self, points: Iterable[str]) -> list[int]:
        """Those with attention: some families' layers have something else."""
        found = (re.fullmatch(r"blocks\.(\d+)\.attn\.hook_products", name) for name in points)
        return sorted(int(one[1]) for one in found if one)

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """The products, and what the heads attended to, per layer."""
        return [hook.format(layer=layer) for layer in layers for hook in (PRODUCTS, Z)]

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "batch pos head"], None]:
        """Norms."""
        products, z = tensors.values()
        z = by_head(z, products).to(torch.promote_types(z.dtype, torch.float32))
        squares = torch.einsum("...hi,hij,...hj->...h", z, products[0].to(z), z)
        none = squares <= 0  # the gradient of a root is infinite at 0, that of what it is the root of is 0
        return torch.where(none, 0, torch.where(none, 1, squares).sqrt()), None  # what is not finite stays

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "batch pos head"]
    ) -> dict[str, Tensor]:
        """The heads' z, longer or shorter."""
        (_, products), (hook, z) = tensors.items()
        old, _ = self.read(tensors)
        new = values if units is None else old.index_copy(-1, units.to(old.device), values.to(old))
        factor = torch.where(old > 0, new.to(old) / torch.where(old > 0, old, 1), 1)
        return {hook: (by_head(z, products) * factor[..., None].to(z)).reshape(z.shape)}

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """Refused.

        Raises:
            ValueError: a head writes in another direction at every position.
        """
        raise ValueError(
            "an attention head writes in another direction at every position, so it has none of its own: for what it "
            "adds to logits, patch or ablate it (vn.causal_effects)"
        )

    def fingerprint(self) -> str:
        """The hook names: values come from the model alone."""
        return f"{PRODUCTS} {Z}"

    def parse(self, id: str) -> Address | None:
        """Read `L5H7`."""
        found = re.fullmatch(r"L(\d+)H(\d+)(-?)", id)
        return Address(self.place(int(found[1])), int(found[2]), "-" if found[3] else "+") if found else None

    def id(self, address: Address) -> str:
        """Write `L5H7`."""
        return f"L{self.layer_of(address.place)}H{address.unit}{'-' if address.pole == '-' else ''}"


def by_head(
    z: Float[Tensor, "batch pos *d"], products: Float[Tensor, "batch head d_head d_head"]
) -> Float[Tensor, "batch pos head d_head"]:
    """What the heads attended to, one by one, however the hook holds them."""
    return z.reshape(*z.shape[:2], *products.shape[1:3])
