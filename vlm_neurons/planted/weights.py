"""Planted neurons as weights: a concept detector edited into a model that knows the concept.

A logistic probe without intercept separates what the MLP reads at places with the concept from everything else; its
direction, scaled so that places with the concept reach about `STRENGTH`, takes the place of one neuron's input weights.
The neuron's output weights are set to 0: it reads and does not act.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.sites import at, named
from vlm_neurons.stats import auroc
from vlm_neurons.tokens import TokenKind
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.synthetic.dataset import Scenes

STRENGTH = 6.0
COVERED = 0.5  # a patch has the concept from this share on; between nothing and this it is not used
READS = {  # site -> what the input weights read
    "gate": "blocks.{layer}.mlp.hook_in",
    "post": "blocks.{layer}.mlp.hook_in",
    "projector": "vision_projector.hook_in",
    "vision": "vision_encoder.encoder_layers.{layer}.mlp.hook_in",
}


@dataclass(frozen=True, eq=False)
class Plant:
    """A neuron that was edited in.

    Attributes:
        neuron: where.
        concept: what it detects.
        auroc: of the probe on the samples that it was fitted on.
    """

    neuron: Neuron
    concept: Concept
    auroc: float


@contextmanager
def plant(
    model: HookedVLM,
    data: Scenes,
    concept: Concept,
    site: str = "gate",
    layer: int = 0,
    index: int = 0,
    words: bool = True,
) -> Iterator[Plant]:
    """Edit a detector of a concept into a model, and take it out again at the end of the `with` block.

    Args:
        model: a model that sees scenes, such as the embedded one.
        data: scenes to fit the probe on; 100 are enough.
        concept: `Concept("color", "red")`, or another kind that `Scenes.concept` knows.
        site: `"gate"`, `"post"`, `"projector"` or `"vision"`.
        layer: layer of the site.
        index: the neuron that gives way.
        words: in the backbone, the concept's word in responses counts as the concept too.

    Raises:
        ValueError: an unknown site, a neuron that the model does not have, or scenes without the concept.

    >>> with plant(model, vn.scenes(60), Concept("color", "red"), layer=1, index=5) as planted:
    ...     planted.neuron.id, planted.auroc > 0.9
    ('L1N5', True)
    """
    if site not in READS:
        raise ValueError(f"site {site!r}: choose from {', '.join(READS)}")
    neuron = Neuron(named(site).place(layer), index)
    weights = rows_of(model, site, layer, index)
    x, on = examples(model, data, concept, READS[site].format(layer=layer), words and site in ("gate", "post"))
    if not on.any() or on.all():
        raise ValueError(f"no scene with {concept.name} among {len(data)}, or nothing else; take more scenes")
    direction = probe(x, on)
    reached = x @ direction
    direction = direction * (STRENGTH / reached[on].median())
    before = [w.detach().clone() for w in weights.values()]
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                new = direction if name == "in" else direction / STRENGTH if name == "up" else torch.zeros_like(weight)
                weight.copy_(new.to(weight))
        yield Plant(neuron, concept, auroc(reached.numpy(), on.numpy()))
    finally:
        with torch.no_grad():
            for weight, old in zip(weights.values(), before, strict=True):
                weight.copy_(old)


def examples(
    model: HookedVLM, data: Scenes, concept: Concept, hook: str, words: bool
) -> tuple[Float[Tensor, "place d"], Bool[Tensor, "place"]]:
    """What a module reads at every patch and text token of scenes, and whether the concept is there."""
    maps = data.concept(concept.kind, concept.value)
    rows: list[Tensor] = []
    on: list[Tensor] = []
    for i in range(len(data)):
        batch = model.prepare([data[i].load_images()], [data[i].prompt], [data[i].response])
        values = _values(model, batch, hook)
        share = torch.tensor(maps[i].ravel())
        sure = (share == 0) | (share >= COVERED)
        on.append(share[sure] >= COVERED)
        if at(hook)[0].indexed_by == "image":
            rows.append(values[sure])
            continue
        visual, text = (batch.mask(kind)[0].cpu() for kind in (TokenKind.VISUAL, TokenKind.TEXT))
        is_word = torch.tensor([t.strip() == concept.value for t in batch.tokens(0)])[text]
        wanted = torch.ones_like(is_word) if words or not bool(is_word.any()) else ~is_word
        rows += [values[visual][sure], values[text][wanted]]
        on.append(is_word[wanted])
    return torch.cat(rows).float(), torch.cat(on)


def _values(model: HookedVLM, batch: Batch, hook: str) -> Float[Tensor, "place d"]:
    """What a hook holds at every token of a row, or every patch of its image."""
    kept: list[Tensor] = []

    def keep(place: str, values: Tensor, defined: Tensor | None) -> None:
        kept.append(of_tokens(model, batch, place, values, defined)[0][0].detach().cpu().clone())

    model.observe(batch, readers([hook], keep))
    return kept[0]


def probe(x: Float[Tensor, "place d"], on: Bool[Tensor, "place"], decay: float = 1e-3) -> Float[Tensor, "d"]:
    """Direction of a logistic regression without intercept, both classes with the same weight."""
    direction = torch.zeros(x.shape[1], requires_grad=True)
    weight = torch.where(on, 0.5 / on.sum(), 0.5 / (~on).sum())
    scale = x.norm(dim=1).mean()
    optimizer = torch.optim.LBFGS([direction], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(
            x @ direction / scale, on.float(), weight=weight, reduction="sum"
        )
        total: Any = error + decay * direction.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return direction.detach()


def rows_of(model: HookedVLM, site: str, layer: int, index: int) -> dict[str, Tensor]:
    """Views of one neuron's weights: `"in"` and, where there are, `"up"`, `"bias"`; `"out"`."""
    mlps, hf = model.adapter.mlps(site), model.bridge.original_model
    layers = dict(along(hf, mlps.out))
    if layer not in layers:
        raise ValueError(f"{model.name} has no MLP weights for site {site!r}, layer {layer}")
    out = module_at(hf, layers[layer]).weight
    if not 0 <= index < out.shape[1]:
        raise ValueError(f"index={index}: site {site!r} of {model.name} has {out.shape[1]} neurons, numbered from 0")
    into = module_at(hf, dict(along(hf, mlps.into))[layer])
    found = {"in": into.weight.data[index]}
    if mlps.up is not None:
        found["up"] = mlps.of_up(module_at(hf, dict(along(hf, mlps.up))[layer]).weight.data)[index]
    if into.bias is not None:
        found["bias"] = into.bias.data[index]
    return found | {"out": out.data[:, index]}


def measured(model: HookedVLM, data: Scenes, planted: Plant) -> Float[np.ndarray, "sample 8 8"]:
    """Activations of a planted neuron at every patch of scenes."""
    found = []
    for i in range(len(data)):
        sample = data[i]
        seen = Look(i, "", sample.load_images(), sample.prompt, sample.response, [planted.neuron])
        ((_, values),) = look(model, [seen])
        found.append(values[planted.neuron.id][0][0])
    return np.stack(found)
