"""Mixtures of experts with a hook point for the neurons of every expert.

transformers computes all experts of a layer at once, in an order of rows that is not documented. Here they are computed
one after the other, as transformers' own `experts_implementation="eager"` does it and to the last bit, so that the rows
of every expert are known. A hook sees [batch, pos, neuron] with NaN at the tokens that did not choose the expert: they
have no such neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.sites.mlp import CHOSEN, MLP, MLPS, WEIGHTS

GATE, POST = MLPS[:2]


def open_experts(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """Give the experts of a Hugging Face model hook points, in place; one that has them keeps them.

    Args:
        model: the model, in a bridge or not.
        adapter: of its family.

    Returns:
        Hook name -> hook point; empty for a family without experts.

    Raises:
        ValueError: experts with other weights than [expert, 2 neuron, d_model] and [expert, d_model, neuron], such as
            quantised ones, or spread over processes.
    """
    points: dict[str, Any] = {}
    for layer, path, experts in experts_of(model, adapter):
        if not hasattr(experts, "points"):
            _check(experts, path)
            _open(experts, layer)
            whole = module_at(model, adapter.beside_experts.format(i=layer))
            whole.register_forward_pre_hook(_Shape(experts))
        points |= experts.points
    return points


def experts_of(model: nn.Module, adapter: Adapter) -> Iterator[tuple[int, str, Any]]:
    """Layer, path and module of the experts of every layer that has some."""
    for layer, path in along(model, adapter.experts) if adapter.experts else ():
        module = module_at(model, path)
        yield layer, path, getattr(module, "original_component", None) or module


def gates_of(experts: Any, expert: int) -> Float[Tensor, "neuron d_model"]:
    """A view of the weights of an expert's gates."""
    return experts.gate_up_proj[expert].chunk(2)[0]  # type: ignore[no-any-return]


def _check(experts: Any, path: str) -> None:
    weights = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    fits = all(isinstance(w, Tensor) and w.dim() == 3 and w.is_floating_point() for w in weights)
    odd = [name for name in ("is_transposed", "has_bias", "has_post_expert_norm", "_is_expert_parallel")
           if getattr(experts, name, False)]  # fmt: skip
    if not fits or odd or not hasattr(experts, "act_fn"):
        raise ValueError(
            f"the experts at {path} ({type(experts).__name__}{', ' + ', '.join(odd) if odd else ''}) are not matrices "
            "of numbers gate_up_proj [expert, 2 neuron, d_model] and down_proj: load the model unquantised and in one "
            "process"
        )


def _open(experts: Any, layer: int) -> None:
    from transformer_lens.hook_points import HookPoint

    names = [CHOSEN.format(layer=layer), WEIGHTS.format(layer=layer)]
    names += [site.of_expert(e).place(layer) for e in range(experts.num_experts) for site in (GATE, POST)]
    points = {name: HookPoint() for name in names}
    for name, point in points.items():
        point.name = name
    experts.points, experts.hook_points = points, nn.ModuleList(points.values())  # module names have no dots
    experts.layer, experts.shape = layer, None
    experts.forward = MethodType(_forward, experts)


class _Shape:
    """Tells the experts, which are given tokens one after the other, how many rows of how many positions they are."""

    def __init__(self, experts: Any) -> None:
        self.experts = experts

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.experts.shape = args[0].shape[:-1]


def _forward(
    self: Any,
    hidden_states: Float[Tensor, "token d_model"],
    top_k_index: Int[Tensor, "token k"],
    top_k_weights: Float[Tensor, "token k"],
) -> Float[Tensor, "token d_model"]:
    """What transformers' own forward gives, with the hook points on the way."""
    chosen, weights = (
        _whole(self, hook.format(layer=self.layer), tensor)
        for hook, tensor in ((CHOSEN, top_k_index), (WEIGHTS, top_k_weights))
    )
    out = torch.zeros_like(hidden_states)
    # token by token for every place in the choice, as transformers orders them; one look at the device for all experts
    flat, n = chosen.T.flatten(), len(chosen)
    counts = torch.bincount(flat, minlength=self.num_experts).tolist()
    for expert, mine in enumerate(flat.argsort(stable=True).split(counts)[: self.num_experts]):
        token, place = mine % n, mine // n
        gate, up = nn.functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
        post = _spread(self, GATE, expert, token, self.act_fn(gate)) * up
        post = _spread(self, POST, expert, token, post)
        added = nn.functional.linear(post, self.down_proj[expert]) * weights[token, place, None]
        out.index_add_(0, token, added.to(out.dtype))
    return out


def _whole(experts: Any, hook: str, tensor: Tensor) -> Tensor:
    """Through a hook point as [batch, pos, ...]."""
    point = experts.points[hook]
    return point(tensor.view(*experts.shape, -1)).flatten(0, -2) if _looked_at(point) else tensor  # type: ignore[no-any-return]


def _spread(
    experts: Any, site: MLP, expert: int, token: Int[Tensor, "n"], values: Float[Tensor, "n neuron"]
) -> Float[Tensor, "n neuron"]:
    """Through a hook point as [batch, pos, neuron], NaN at the tokens that did not choose the expert."""
    point = experts.points[site.of_expert(expert).place(experts.layer)]
    if not _looked_at(point):
        return values
    rows, length = experts.shape
    whole = values.new_full((rows * length, values.shape[1]), torch.nan).index_copy(0, token, values)
    return point(whole.view(rows, length, -1)).flatten(0, 1)[token]  # type: ignore[no-any-return]


def _looked_at(point: Any) -> bool:
    return bool(point._forward_hooks or point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks)
