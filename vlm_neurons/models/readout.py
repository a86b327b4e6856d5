"""What a model makes of a vector in the residual stream of its backbone: the weights that write there, the norm
before the unembedding, and the unembedding."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Float
from torch import Tensor

from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.models.experts import experts_of
from vlm_neurons.models.held import weight_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Readable(Protocol):
    """What is needed of a HookedVLM here: the class itself is above this file."""

    bridge: TransformerBridge
    adapter: Adapter


def written_by(model: Readable, site: str, layer: int) -> Float[Tensor, "d_model unit"]:
    """What the neurons of an MLP site are multiplied by; those of expert 5 for the site `"experts.5"`.

    Raises:
        IndexError: there is no such layer or expert.
        ValueError: the model has no such site.
    """
    hf = model.bridge.original_model
    if site.startswith("experts."):
        return _written_by_expert(model, int(site.removeprefix("experts.")), layer)
    layers = dict(along(hf, model.adapter.mlps(site).out))
    if layer not in layers:
        raise IndexError(f"layer {layer} at site {site!r}: there are {len(layers)} layers, 0 to {len(layers) - 1}")
    return weight_of(module_at(hf, layers[layer]))


def _written_by_expert(model: Readable, expert: int, layer: int) -> Float[Tensor, "d_model unit"]:
    found = {i: experts for i, _, experts in experts_of(model.bridge.original_model, model.adapter)}
    if layer not in found:
        raise IndexError(f"layer {layer} has no experts; layers with some: {', '.join(map(str, found)) or 'none'}")
    weights = found[layer].down_proj
    if expert >= len(weights):
        raise IndexError(f"expert {expert} of layer {layer}: there are {len(weights)}, 0 to {len(weights) - 1}")
    return weights[expert].detach()  # type: ignore[no-any-return]


def post_norm(model: Readable, layer: int) -> Any:
    """The norm between an MLP of the backbone and the residual stream; None where there is none."""
    with suppress(LookupError):
        return module_at(model.bridge.original_model, model.adapter.post_norm.format(i=layer))
    return None


def scale_behind(model: Readable, layer: int) -> float:
    """What the residual stream is multiplied by from a layer's MLP on to the norm before the unembedding."""
    hf, path = model.bridge.original_model, model.adapter.layer_scale
    scales = [module_at(hf, path.format(i=i)) for i in range(layer, len(model.bridge.blocks))] if path else []
    return math.prod(float(scale) for scale in scales)


def norm_before(model: Readable, layer: int | None, mlp: bool = False) -> Any:
    """The norm before a layer's attention or MLP; None is the unembedding."""
    if layer is None:
        return module_at(model.bridge.original_model, model.adapter.norm)
    block: Any = model.bridge.blocks[layer]
    return block.ln2 if mlp and not model.adapter.parallel else block.ln1


def norm_weight(model: Readable, norm: Any) -> Float[Tensor, "d_model"]:
    """What a norm of the backbone multiplies by, in float32."""
    weight: Tensor = norm.weight
    return weight.detach().float() + model.adapter.norm_offset


def normed(model: Readable, norm: Any, vectors: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
    """What a norm makes of parts of its input, but for what it divides by."""
    if model.adapter.norm_centres:
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return vectors * norm_weight(model, norm).to(vectors)


def norm_scale(model: Readable, norm: Any, residual: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos 1"]:
    """What a norm divides by where its input is this."""
    epsilon = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
    residual = residual.float()
    if model.adapter.norm_centres:
        residual = residual - residual.mean(-1, keepdim=True)
    return (residual.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def unembedding(model: Readable) -> Float[Tensor, "d_vocab d_model"]:
    """The matrix that makes logits, in float32."""
    return weight_of(module_at(model.bridge.original_model, model.adapter.unembed)).float()
