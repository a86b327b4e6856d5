"""Planted neurons as weights: a concept detector edited into a model that knows the concept.

A logistic probe without intercept separates what the MLP reads at places with the concept from everything else; its
direction, scaled so that places with the concept reach about `STRENGTH`, takes the place of one neuron's input weights.
The neuron's output weights are set to 0, so that it reads and does not act, unless they are to stay or to write a
word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.readout import norm_before, norm_weight, unembedding, written_by
from vlm_neurons.planted.readings import Labelled, Reading, labelled, read
from vlm_neurons.sites import named
from vlm_neurons.stats import auroc
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.synthetic.dataset import Scenes

STRENGTH = 6.0
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
        concepts: what it detects: all of them together.
        auroc: of the probe on the samples that it was fitted on, of places; of whole pictures and texts, by their
            largest values, where it was fitted to those.
    """

    neuron: Neuron
    concepts: tuple[Concept, ...]
    auroc: float


@contextmanager
def plant(
    model: HookedVLM,
    data: Scenes,
    concept: Concept | Sequence[Concept],
    site: str = "gate",
    layer: int = 0,
    index: int = 0,
    words: bool = True,
    regions: bool = True,
    acts: bool = False,
    peaks: bool = False,
    reading: Reading | None = None,
    writes: str | None = None,
) -> Iterator[Plant]:
    """Edit a detector of a concept into a model, and take it out again at the end of the `with` block.

    Args:
        model: a model that sees scenes, such as the embedded one.
        data: scenes to fit the probe on; 100 are enough.
        concept: `Concept("color", "red")`, or another kind that `Scenes.concept` knows; of several, objects that have
            them all.
        site: `"gate"`, `"post"`, `"projector"` or `"vision"`.
        layer: layer of the site.
        index: the neuron that gives way.
        words: in the backbone, the concept's word in responses counts as the concept too.
        regions: patches that show it count; False for a neuron of the word alone.
        acts: its output weights stay, so that it acts on what comes after; else they are 0.
        peaks: the probe separates whole pictures, and texts, by their largest values: what `vn.input_effects` looks at.
            One that separates places can be wrong at one of 64, and then is in every picture.
        reading: what the layer reads on `data` (`planted.read(model, data, planted.READS[site].format(layer=layer))`),
            for many plants of one layer; read anew if None.
        writes: a word that it raises, in place of its output weights: see `writing`. Of sites gate and post.

    Raises:
        ValueError: an unknown site, a neuron that the model does not have, scenes without the concept, or what is not
            one token of the model.

    >>> with plant(model, vn.scenes(60), Concept("color", "red"), layer=1, index=5) as planted:
    ...     planted.neuron.id, planted.auroc > 0.9
    ('L1N5', True)
    """
    if site not in READS:
        raise ValueError(f"site {site!r}: choose from {', '.join(READS)}")
    neuron = Neuron(named(site).place(layer), index)
    weights = rows_of(model, site, layer, index)
    concepts = (concept,) if isinstance(concept, Concept) else tuple(concept)
    reading = read(model, data, READS[site].format(layer=layer)) if reading is None else reading
    places = labelled(reading, concepts, words and site in ("gate", "post"), regions)
    if not places.on.any() or places.on.all():
        told = " and ".join(c.name for c in concepts)
        raise ValueError(f"no scene with {told} among {len(data)}, or nothing else; take more scenes")
    word = None if writes is None else writing(model, site, layer, writes)
    direction, score = fitted(places, peaks)
    del places, reading  # many plants may stand at once
    before = [w.detach().clone() for w in weights.values()]
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                if name == "out" and acts:
                    continue
                new = direction if name == "in" else direction / STRENGTH if name == "up" else torch.zeros_like(weight)
                if name == "out" and word is not None:
                    new = word
                weight.copy_(new.to(weight))
        yield Plant(neuron, concepts, score)
    finally:
        with torch.no_grad():
            for weight, old in zip(weights.values(), before, strict=True):
                weight.copy_(old)


def writing(model: HookedVLM, site: str, layer: int, word: str) -> Float[Tensor, "d_model"]:
    """Output weights that raise a word: its row of the unembedding less the mean row, through the final norm, and as
    long as the median output weights of the layer.

    Raises:
        ValueError: the word is not one token, or the site does not write to the backbone's stream.
    """
    if site not in ("gate", "post"):
        raise ValueError(f"writes={word!r}: neurons of site {site!r} write no words; take gate or post")
    ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"writes={word!r}: {len(ids)} tokens of {model.name}; give a word that is one")
    rows = unembedding(model)
    direction = (rows[ids[0]] - rows.mean(0)) / norm_weight(model, norm_before(model, None))
    return direction * (written_by(model, site, layer).float().norm(dim=0).median() / direction.norm())


def fitted(places: Labelled, peaks: bool) -> tuple[Float[Tensor, "d"], float]:
    """A direction that reaches about `STRENGTH` where the concept is, and how well it tells where."""
    direction = probe(places.x, places.on)
    direction = probe_of_peaks(places, direction) if peaks else direction
    reached, on = places.x @ direction, places.on
    strong = reached[on]
    if peaks:
        home = torch.unique(places.home, return_inverse=True)[1]  # sites of pictures alone have no home for texts
        strong = _largest(reached.where(on, -torch.inf), home)
        strong = strong[strong.isfinite()]
        reached, on = _largest(reached, home), _largest(on.float(), home) > 0
    return direction * (STRENGTH / strong.median()), auroc(reached.numpy(), on.numpy())


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


def probe_of_peaks(places: Labelled, start: Float[Tensor, "d"], rounds: int = 3, steps: int = 60) -> Float[Tensor, "d"]:
    """Direction, from a first one on, by which pictures and texts with a concept have a large value where it is, and
    none anywhere else. In every round those places count that have large values at its beginning: a few of each."""
    direction = (start.clone() / places.x.norm(dim=1).mean()).requires_grad_()
    optimizer = torch.optim.Adam([direction], lr=float(direction.detach().abs().mean()) / 5)
    softplus = torch.nn.functional.softplus
    for _ in range(rounds):
        near = _near_top(places.x @ direction.detach(), places.home) | places.on
        x, on, home = places.x[near], places.on[near], places.home[near]
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                values = x @ direction
                there, elsewhere = (_largest(values.where(mask, -torch.inf), home) for mask in (on, ~on))
                total: Any = softplus(1 - there[there.isfinite()]).mean()
                total = total + softplus(elsewhere[elsewhere.isfinite()] + 1).mean()
                total.backward()
                optimizer.step()
    return direction.detach()


def _near_top(values: Float[Tensor, "place"], home: Int[Tensor, "place"], n: int = 8) -> Bool[Tensor, "place"]:
    """The places with the n largest values of every picture and text."""
    order = torch.argsort(home.double() - (values - values.min()) / (values.max() - values.min() + 1) / 2)
    sizes = torch.bincount(home)
    starts = (sizes.cumsum(0) - sizes)[home[order]]
    near = torch.zeros(len(values), dtype=torch.bool)
    near[order[torch.arange(len(values)) - starts < n]] = True
    return near


def _largest(values: Float[Tensor, "place"], home: Int[Tensor, "place"]) -> Float[Tensor, "home"]:
    """The largest value of every picture and text."""
    n = int(home.max()) + 1
    return values.new_full((n,), -torch.inf).scatter_reduce(0, home, values, "amax")


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
        seen = Look(i, "", sample.load_images(), sample.prompt, sample.response)
        ((_, values),) = look(model, [seen], [[planted.neuron]])
        found.append(values[planted.neuron.id][0][0])
    return np.stack(found)
