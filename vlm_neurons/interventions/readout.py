"""The direct share of neurons in a logit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.hooks import Neurons
from vlm_neurons.hooks.selecting import Target
from vlm_neurons.models.lens import OF_MLPS, output_weights, single
from vlm_neurons.models.readout import (
    norm_before,
    norm_scale,
    normed,
    post_norm,
    scale_behind,
    unembedding,
    written_by,
)
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM


def direct_logit_attribution(
    model: HookedVLM,
    batch: Batch,
    neurons: Neurons,
    token: str | int,
    against: str | int | None = None,
    position: int = -1,
) -> Float[Tensor, "batch neuron"]:
    """What backbone neurons add directly to the logit of a token at one position: activation x output weights, through
    the final norm at the scale that it had, to the unembedding. What later layers make of it is left out. Where a norm
    stands behind the MLP (Gemma 2 and 3), that too is at the scale that it had. Where the model caps its logits
    (Gemma 2), shares are of the logit before the cap: there they add up.

    Args:
        model: the model.
        batch: from `prepare`.
        neurons: of a site that writes to the token that it reads: gate and post. A gate neuron counts with its `up`, as
            SiLU(gate) * up.
        token: one token, as text or id (text is tokenised alone; a model with byte-level BPE needs the blank in front).
        against: subtract this token's logit: attribution of a logit difference.
        position: at which the logit is read; negative ones count from the last token of each row, padding left out.

    Raises:
        ValueError: text that is not one token, neurons of other sites, or a position that a row does not have.

    >>> share = vn.interventions.direct_logit_attribution(
    ...     model, corrupted, "L3N3", token="cyan", against="red", position=-2
    ... )
    >>> round(float(share), 1)  # the neuron for cyan, where "cyan" comes next
    1.9
    """
    chosen = [neuron for _, neuron in single(neurons)]
    bad = next((n for n in chosen if at(n.hook)[0].indexed_by != "row"), None)
    if bad is not None:
        raise ValueError(f"{bad.id}: direct logits are of backbone neurons, such as those of sites gate and post")
    written = output_weights(model, [Neuron(n.hook, n.index) for n in chosen]).float()
    places = [site.written(layer) for site, layer in (at(n.hook) for n in chosen)]
    layers = {place: Target(place, None, (0,), (place,)) for place in places}
    final = "ln_final.hook_in"
    hooks = sorted({final, *(hook for layer in layers.values() for hook in layer.hooks)})
    with torch.no_grad():
        _, cache = model.run_with_cache(batch, names_filter=hooks)
    unembed = unembedding(model)
    direction = unembed[_token(model, token)] - (0 if against is None else unembed[_token(model, against)])
    where = _places(batch, position)
    scale = norm_scale(model, norm_before(model, None), cache[final][where])
    per_unit = normed(model, norm_before(model, None), written) @ direction
    values = {place: layer.recorded(cache)[where].float() for place, layer in layers.items()}
    activations = torch.stack([values[place][..., n.index] for place, n in zip(places, chosen, strict=True)], -1)
    place_of = {n.hook: place for place, n in zip(places, chosen, strict=True)}
    behind = {hook: _scale_behind(model, hook, values[place]) / scale_behind(model, at(hook)[1])
              for hook, place in place_of.items()}  # fmt: skip
    return (activations * per_unit / scale / torch.cat([behind[n.hook] for n in chosen], -1)).detach()


def _scale_behind(model: HookedVLM, hook: str, post: Float[Tensor, "batch neuron"]) -> Float[Tensor, "batch 1"]:
    """What the norm between a layer's neurons and the residual stream divides by: by 1 where there is none."""
    site, layer = at(hook)
    norm = post_norm(model, layer) if site.name in OF_MLPS else None
    if norm is None:
        return torch.ones_like(post[:, :1])
    return norm_scale(model, norm, post @ written_by(model, "post", layer).float().T)


def _places(batch: Batch, position: int) -> tuple[Tensor, Tensor]:
    """Indices (rows, positions) of one position in every row; negative ones count back from its last token."""
    real = batch.attention_mask.bool()
    width = real.shape[1]
    at = torch.full((len(real),), position, device=real.device)
    if position < 0:
        at = width - real.flip(1).long().argmax(1) + position
    rows = torch.arange(len(real), device=real.device)
    there = (at >= 0) & (at < width)
    there &= real[rows, at.clamp(0, width - 1)]
    if not bool(there.all()):
        row = int((~there).long().argmax())
        raise ValueError(f"position={position}: row {row} has {int(real[row].sum())} tokens, and none there")
    return rows, at


def _token(model: HookedVLM, token: str | int) -> int:
    if isinstance(token, int):
        return token
    ids = model.tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(f"{token!r} is {len(ids)} tokens, {pieces}; give one of them, or a token id")
    return int(ids[0])
