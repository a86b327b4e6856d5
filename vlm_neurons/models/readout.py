"""What a model makes of a vector in the residual stream of its backbone: the weights that write there, the norm
before the unembedding, and the unembedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Float
from torch import Tensor

from vlm_neurons.models.adapters import Adapter, along, module_at

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Readable(Protocol):
    """What is needed of a HookedVLM here: the class itself is above this file."""

    bridge: TransformerBridge
    adapter: Adapter


def written_by(model: Readable, site: str, layer: int) -> Float[Tensor, "d_model unit"]:
    """What the neurons of an MLP site are multiplied by.

    Raises:
        IndexError: there is no such layer.
        ValueError: the model has no such site.
    """
    hf = model.bridge.original_model
    layers = dict(along(hf, model.adapter.mlps(site).out))
    if layer not in layers:
        raise IndexError(f"layer {layer} at site {site!r}: there are {len(layers)} layers, 0 to {len(layers) - 1}")
    return module_at(hf, layers[layer]).weight.detach()  # type: ignore[no-any-return]


def norm_weight(model: Readable) -> Float[Tensor, "d_model"]:
    """What the final norm multiplies by, in float32."""
    weight: Tensor = module_at(model.bridge.original_model, model.adapter.norm).weight
    return weight.detach().float() + model.adapter.norm_offset


def norm_scale(model: Readable, residual: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos 1"]:
    """What the final norm divides by where the residual stream is this."""
    norm: Any = module_at(model.bridge.original_model, model.adapter.norm)
    epsilon = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
    return (residual.float().pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def unembedding(model: Readable) -> Float[Tensor, "d_vocab d_model"]:
    """The matrix that makes logits, in float32."""
    weight: Tensor = module_at(model.bridge.original_model, model.adapter.unembed).weight
    return weight.detach().float()
