"""How well single neurons tell the concepts of the scenes apart, by measures that random directions do badly on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from vlm_neurons import HookedVLM, TokenKind
from vlm_neurons.hooks import record
from vlm_neurons.synthetic import Scenes
from vlm_neurons.synthetic.language import WORD_CLASSES

IS_OBJECT, IS_NOT = 0.15, 0.03  # share of a patch that a thing covers; what lies between is neither
FIRES = 0.2  # share of a neuron's maximum: the paper's T_v = 2 of 10


@dataclass
class Recording:
    """Neurons of one site on many scenes, patches and response words apart.

    Attributes:
        patches: activations at visual tokens, images one after the other.
        words: activations at response tokens.
        said: the word (without its space) of every response token.
        peak: maximum over both.
    """

    patches: Float[np.ndarray, "patch neuron"]
    words: Float[np.ndarray, "word neuron"]
    said: np.ndarray
    data: Scenes

    @property
    def peak(self) -> Float[np.ndarray, " neuron"]:
        return np.maximum(self.patches.max(0), self.words.max(0))


def record_site(model: HookedVLM, data: Scenes, site: str = "gate", batch_size: int = 32) -> Recording:
    """Forward all samples once with their true responses; layers one after the other along the neuron axis."""
    hooks = model.site_hooks(site)
    patches: list[np.ndarray] = []
    words: list[np.ndarray] = []
    said: list[str] = []
    for first in range(0, len(data), batch_size):
        samples = [data[i] for i in range(first, min(first + batch_size, len(data)))]
        batch = model.prepare(
            [s.load_images() for s in samples], [s.prompt for s in samples], [s.response for s in samples]
        )
        seen: dict[str, Tensor] = {}
        model.observe(batch, dict(record(hooks, into=seen)))
        acts = torch.cat([seen[hook] for hook in hooks], -1).float()
        patches.append(acts[batch.mask(TokenKind.VISUAL)].numpy())
        words.append(acts[batch.mask(TokenKind.TEXT)].numpy())
        for row in range(len(samples)):
            tokens, text = batch.tokens(row), batch.mask(TokenKind.TEXT)[row]
            said += [token.strip() for token, keep in zip(tokens, text, strict=True) if keep]
    return Recording(np.concatenate(patches), np.concatenate(words), np.array(said), data)


@dataclass
class Selectivity:
    """One number per (concept, neuron); concepts are the colours and then the shapes.

    Attributes:
        auroc: patches of the concept against all patches without it.
        auroc_objects: against the patches of other objects only.
        f1: of "fires" (above a fifth of the neuron's maximum) as a detector of the concept's patches.
        word_auroc: tokens of the concept's word against all other response tokens.
        word_f1: of "fires" as a detector of the word.
    """

    auroc: Float[np.ndarray, "concept neuron"]
    auroc_objects: Float[np.ndarray, "concept neuron"]
    f1: Float[np.ndarray, "concept neuron"]
    word_auroc: Float[np.ndarray, "concept neuron"]
    word_f1: Float[np.ndarray, "concept neuron"]


CONCEPTS = [(kind, word) for kind in ("color", "shape") for word in WORD_CLASSES[kind]]
N_COLORS = len(WORD_CLASSES["color"])


def selectivity(recording: Recording) -> Selectivity:
    """All measures for all colours and shapes; a patch that some object covers by 3-15 % is left out."""
    data = recording.data
    shares = np.stack([data.concept(kind, word).reshape(-1) for kind, word in CONCEPTS])
    clear = np.array([((c <= IS_NOT) | (c >= IS_OBJECT)).all(0) for c in map(data.things, range(len(data)))]).reshape(
        -1
    )
    patches, shares = recording.patches[clear], shares[:, clear]
    on_thing = shares.max(0) >= IS_OBJECT
    fires, word_fires = (a > FIRES * recording.peak for a in (patches, recording.words))
    ranks, object_ranks, word_ranks = (rankdata(a, axis=0) for a in (patches, patches[on_thing], recording.words))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in Selectivity.__annotations__}
    for (_, word), share in zip(CONCEPTS, shares, strict=True):
        is_concept, is_word = share >= IS_OBJECT, recording.said == word
        rows["auroc"].append(_auroc(ranks, is_concept))
        rows["auroc_objects"].append(_auroc(object_ranks, is_concept[on_thing]))
        rows["f1"].append(f1_of_firing(fires, is_concept))
        rows["word_auroc"].append(_auroc(word_ranks, is_word))
        rows["word_f1"].append(f1_of_firing(word_fires, is_word))
    return Selectivity(**{name: np.stack(values) for name, values in rows.items()})


def _auroc(
    ranks: Float[np.ndarray, "item neuron"], positive: Bool[np.ndarray, " item"]
) -> Float[np.ndarray, " neuron"]:
    """Area under the ROC curve of every neuron, from its ranks (ties share theirs)."""
    n, m = int(positive.sum()), int((~positive).sum())
    return (ranks[positive].sum(0) - n * (n + 1) / 2) / (n * m)


def f1_of_firing(
    fires: Bool[np.ndarray, "item neuron"], positive: Bool[np.ndarray, " item"]
) -> Float[np.ndarray, " neuron"]:
    """Harmonic mean of precision and recall of "fires"."""
    return 2 * fires[positive].sum(0) / np.maximum(fires.sum(0) + positive.sum(), 1)


def counts(s: Selectivity, layers: Int[np.ndarray, " neuron"]) -> dict[str, int]:
    """How many neurons pass each bar for some concept of its kind."""
    color, shape = slice(0, N_COLORS), slice(N_COLORS, None)
    early = layers <= 1

    def many(passed: np.ndarray, where: np.ndarray | None = None) -> int:
        found = passed.any(0)
        return int((found if where is None else found & where).sum())

    broad = np.concatenate([s.auroc[color] > 0.98, s.auroc[shape] > 0.95])
    return {
        "colour AUROC > .98 or shape > .95": many(broad),
        "... in layers 0-1": many(broad, early),
        "colour AUROC > .98 among object patches": many(s.auroc_objects[color] > 0.98),
        "shape AUROC > .95 among object patches": many(s.auroc_objects[shape] > 0.95),
        "colour F1 > .6 when firing": many(s.f1[color] > 0.6),
        "shape F1 > .5 when firing": many(s.f1[shape] > 0.5),
        "patch and word of one concept, both F1 > .5": many((s.f1 > 0.5) & (s.word_f1 > 0.5)),
        "word AUROC > .99": many(s.word_auroc > 0.99),
        "word F1 > .8": many(s.word_f1 > 0.8),
        "object AUROC >= .9 and F1 >= .6, one concept": many((s.auroc_objects >= 0.9) & (s.f1 >= 0.6)),
    }
