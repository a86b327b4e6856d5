"""What a unit writes, read as words: its output weights through the final norm to the unembedding (logit lens)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.hooks.selecting import Neurons, select
from vlm_neurons.models.readout import norm_before, normed, post_norm, unembedding, written_by
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import HookedVLM

OF_MLPS = ("gate", "post")


def output_weights(model: HookedVLM, neurons: Neurons) -> Float[Tensor, "neuron d_model"]:
    """What one unit of each neuron adds to the residual stream (projector: to an image token's embedding); the
    negative pole writes the opposite. A gate neuron's unit is multiplied by its `up` first. Where a norm stands behind
    the MLP (Gemma 2 and 3), its weight is multiplied in; what it divides by is left out, since it depends on the input.

    Raises:
        ValueError: a neuron of the vision tower or of another hook, which does not write to the backbone.
        IndexError: there is no such neuron.
    """
    chosen = [neuron for _, neuron in single(neurons)]
    rows = []
    for neuron in chosen:
        site, layer = at(neuron.hook)
        try:
            directions = site.directions(lambda name, layer: written_by(model, name, layer), layer)
        except (IndexError, ValueError) as error:
            raise type(error)(f"{neuron.id}: {error}") from None
        if not 0 <= neuron.index < len(directions):
            raise IndexError(f"{neuron.id}: there are {len(directions)} neurons, 0 to {len(directions) - 1}")
        rows.append(arriving(model, neuron.hook, directions[neuron.index] * (-1 if neuron.pole == "-" else 1)))
    return torch.stack(rows)


def arriving(model: HookedVLM, hook: str, vectors: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """What is added to the residual stream where the units of a hook write these vectors: a norm may stand behind."""
    site, layer = at(hook)
    behind = post_norm(model, layer) if site.name in OF_MLPS else None
    return vectors if behind is None else normed(model, behind, vectors)


def logit_lens(model: HookedVLM, neurons: Neurons, k: int = 8) -> pd.DataFrame:
    """The words whose logits a neuron's output weights raise and lower most (logit lens: final norm's weight, then
    unembedding; the layers between are ignored, and caps of logits, which change no order).

    Args:
        model: the model.
        neurons: of a site that writes to the backbone: gate, post, projector. A gate neuron is multiplied by `up`,
            which takes both signs: where that is negative it lowers what stands here as raised.
        k: words of each kind.

    Returns:
        One row per neuron: `neuron`, `raises`, `lowers` (lists of words, strongest first), `raised`, `lowered`
        (their logits per unit of the neuron at a norm scale of 1).

    >>> vn.interventions.logit_lens(model, "L3N33", k=3).raises[0]
    ['diamond', 'circle', 'cross']
    """
    import pandas as pd

    logits = read_out(model, output_weights(model, neurons).float())
    rows = []
    for (key, _), row in zip(single(neurons), logits, strict=True):
        up, down = row.topk(k), (-row).topk(k)
        rows.append(
            {
                "neuron": key,
                "raises": _words(model, up.indices),
                "lowers": _words(model, down.indices),
                "raised": up.values.tolist(),
                "lowered": (-down.values).tolist(),
            }
        )
    return pd.DataFrame(rows)


def read_out(model: HookedVLM, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    """Logits of vectors in the residual stream, at a norm scale of 1."""
    return normed(model, norm_before(model, None), vectors) @ unembedding(model).T


def single(neurons: Neurons) -> list[tuple[str, Neuron]]:
    """Single neurons with what each was called.

    Raises:
        ValueError: a whole hook.
    """
    found = select(neurons, "read out")
    whole = next((key for key, neuron in found if neuron is None), None)
    if whole is not None:
        raise ValueError(f"{whole!r} is a hook; name single neurons, such as {whole}:0")
    return [(key, neuron) for key, neuron in found if neuron is not None]


def _words(model: HookedVLM, ids: Tensor) -> list[str]:
    return [model.tokenizer.decode([i]).strip() or repr(model.tokenizer.decode([i])) for i in ids.tolist()]
