"""Hook points for the output projection of every attention, as norms of what heads write need it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.models.held import weight_of
from vlm_neurons.sites.heads import PRODUCTS, Z


def open_heads(model: nn.Module, adapter: Adapter, z: bool = False) -> dict[str, Any]:
    """Give the attention layers of a Hugging Face model hook points, in place; one that has them keeps them.

    Args:
        model: the model, in a bridge or not.
        adapter: of its family.
        z: also for what heads attended to [batch, pos, head, d_head], to be looked at: a bridge has that, to be edited.

    Returns:
        Hook name -> hook point. `hook_products` fires before attention's output is projected, if somebody looks, and
        holds [batch, head, d_head, d_head]: of every head the products of the rows of its W_O, for every row the same.
        What hooks return goes nowhere.
    """
    from transformer_lens.hook_points import HookPoint

    points: dict[str, Any] = {}
    for layer, path in along(model, adapter.attention_out):
        projection = module_at(model, path)
        if not hasattr(projection, "head_points"):
            attention = module_at(model, path.rpartition(".")[0])
            projection.head_points = nn.ModuleList([HookPoint() for _ in range(1 + z)])
            for point, name in zip(projection.head_points, (PRODUCTS, Z), strict=False):
                point.name = name.format(layer=layer)
            d_head = int(getattr(attention, "original_component", attention).head_dim)
            projection.register_forward_pre_hook(partial(_show, d_head))
        points |= {point.name: point for point in projection.head_points}
    return points


def _show(d_head: int, projection: Any, args: tuple[Any, ...]) -> None:
    """What is looked at, in the order in which sites read it."""
    products, *z = projection.head_points
    if _looked_at(products):
        products(products_of(weight_of(projection), d_head).expand(len(args[0]), -1, -1, -1))
    if z and _looked_at(z[0]):
        z[0](args[0].unflatten(-1, (-1, d_head)))


def _looked_at(point: Any) -> bool:
    return bool(point._forward_hooks or point._forward_pre_hooks)


def products_of(weight: Float[Tensor, "d_model width"], d_head: int) -> Float[Tensor, "1 head d_head d_head"]:
    """W_O_h W_O_h^T of every head, in float32 at least."""
    by_head = weight.to(torch.promote_types(weight.dtype, torch.float32)).T.unflatten(0, (-1, d_head))
    return (by_head @ by_head.mT)[None]
