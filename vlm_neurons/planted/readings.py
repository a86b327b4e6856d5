"""What a module reads at every patch and token of scenes, and where a concept is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.sites import at
from vlm_neurons.synthetic.scene import GRID
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.synthetic.dataset import Scenes

BATCH = 25  # samples per forward pass
COVERED = 0.5  # a patch has the concept from this share on; between nothing and this it is not used


@dataclass(frozen=True, eq=False)
class Reading:
    """Scenes as a hook sees them.

    Attributes:
        data: the scenes.
        visual: of each sample what is at its patches.
        text: of each sample what is at its response's tokens; None for hooks that see no text.
        tokens: those tokens.
    """

    data: Scenes
    visual: tuple[Float[Tensor, "_ d"], ...]
    text: tuple[Float[Tensor, "_ d"] | None, ...]
    tokens: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Places with and without a concept.

    Attributes:
        x: what is there.
        on: whether the concept is.
        home: the picture or the text that each is of, numbered.
    """

    x: Float[Tensor, "place d"]
    on: Bool[Tensor, "place"]
    home: Int[Tensor, "place"]


def read(model: HookedVLM, data: Scenes, hook: str) -> Reading:
    """Run scenes through a model; many concepts can be looked for in one reading."""
    visual: list[Tensor] = []
    text: list[Tensor | None] = []
    tokens: list[tuple[str, ...]] = []
    by_image = at(hook)[0].indexed_by == "image"
    for start in range(0, len(data), BATCH):
        samples = [data[i] for i in range(start, min(start + BATCH, len(data)))]
        batch = model.prepare(
            [s.load_images() for s in samples], [s.prompt or DEFAULT_PROMPT for s in samples],
            [s.response for s in samples],
        )  # fmt: skip
        values = _values(model, batch, hook)
        if by_image:
            visual += values[0].unflatten(0, (len(samples), -1)).unbind()
            text += [None] * len(samples)
            tokens += [()] * len(samples)
            continue
        shown, said = (batch.mask(kind).cpu() for kind in (TokenKind.VISUAL, TokenKind.TEXT))
        for row in range(len(samples)):
            visual.append(values[row][shown[row]])
            text.append(values[row][said[row]])
            tokens.append(tuple(t for t, kept in zip(batch.tokens(row), said[row].tolist(), strict=True) if kept))
    return Reading(data, tuple(visual), tuple(text), tuple(tokens))


def labelled(reading: Reading, concepts: tuple[Concept, ...], words: bool, regions: bool) -> Labelled:
    """Where scenes have all of some concepts.

    Args:
        reading: of the scenes.
        concepts: that an object has together.
        words: the concepts' words count too; else they are left out.
        regions: patches count; else they are without the concept.
    """
    maps, said = together(reading.data, concepts), {c.value for c in concepts}
    x: list[Tensor] = []
    on: list[Tensor] = []
    home: list[Tensor] = []
    for i, (visual, text, tokens) in enumerate(zip(reading.visual, reading.text, reading.tokens, strict=True)):
        share = torch.tensor(maps[i].ravel())
        sure = (share == 0) | (share >= COVERED) | (not regions)
        x.append(visual[sure])
        on.append((share[sure] >= COVERED) & regions)
        home.append(torch.full((int(sure.sum()),), 2 * i))
        if text is None:
            continue
        is_word = torch.tensor([t.strip() in said for t in tokens])
        kept = torch.ones_like(is_word) if words or not bool(is_word.any()) else ~is_word
        x.append(text[kept])
        on.append(is_word[kept])
        home.append(torch.full((int(kept.sum()),), 2 * i + 1))
    return Labelled(torch.cat(x).float(), torch.cat(on), torch.cat(home))


def together(data: Scenes, concepts: tuple[Concept, ...]) -> Float[np.ndarray, "sample 8 8"]:
    """Share of every patch that objects with all of these properties cover."""
    if len(concepts) == 1:
        return data.concept(concepts[0].kind, concepts[0].value)
    found = np.zeros((len(data), GRID, GRID))
    for i, world in enumerate(data.worlds):
        for thing, share in zip(world.things, data.things(i), strict=True):
            found[i] += share * all(getattr(thing, c.kind) == c.value for c in concepts)
    return found


def _values(model: HookedVLM, batch: Batch, hook: str) -> Float[Tensor, "row place d"]:
    """What a hook holds at every token of the rows, or every patch of all images, as one row."""
    kept: list[Tensor] = []

    def keep(place: str, values: Tensor, defined: Tensor | None) -> None:
        kept.append(of_tokens(model, batch, place, values, defined)[0].detach().cpu().clone())

    model.observe(batch, readers([hook], keep))
    return kept[0]
