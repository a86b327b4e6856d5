"""CLIP's opinion of every patch on a list of words, as a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlm_neurons.concepts.banks import digest, labelled, no_text
from vlm_neurons.concepts.dense import ANYTHING, check_model, patch_features, patches_a_side, text_features
from vlm_neurons.concepts.shares import Boxes
from vlm_neurons.concepts.shown import pictures_of
from vlm_neurons.models.fingerprint import fingerprint
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

if TYPE_CHECKING:
    from torch import Tensor, device, nn

BATCH = 16  # images
ALIKE = 0.99  # correlation of the weights that read pixels: the same tower, perhaps trained on


def visual_words() -> tuple[str, ...]:
    """About 1,000 words for things, stuff, parts and scenes: the frequent and common categories of LVIS, COCO's stuff,
    and some that both lack; `visual_words.txt` beside this module tells the sources.

    >>> len(visual_words()), visual_words()[0], "sky" in visual_words()
    (1021, 'tennis racket', True)
    """
    lines = files("vlm_neurons.concepts").joinpath("visual_words.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True, eq=False)
class Clip(ConceptBank):
    """How much every patch looks like each of some words to a CLIP or SigLIP model: the cosine of the patch's feature
    with the word's, less its mean with texts that stand for anything. No threshold: a correlation needs none.

    Features of patches are those of the CLIP simulator (`vlm_neurons.concepts.dense`): the model's pooling over one
    patch alone. It is trained on whole pictures: what lies beside a patch colours its feature. Patches of the scanned
    model get the exact mean of the cells that they cover. Of a LLaVA whose own tower is this CLIP, bank and neuron
    share their eyes: what both mistake looks like an explanation; `remark` says so.

    The model computes where it is: move it to a GPU first. Its maps are worth keeping: see `Kept`.

    Attributes:
        model: `CLIPModel` or `SiglipModel` of transformers.
        processor: its processor: an image processor and a tokenizer.
        names: the words; None: the list of `visual_words`.
        template: what is said of each.
        anything: texts that stand for anything, whose mean cosine is taken away.
        generic: names that are said to be generic.

    Raises:
        ValueError: another kind of model, no names, or one that is no text.

    >>> from transformers import CLIPConfig, CLIPModel
    >>> with torch.device("meta"):  # no weights; CLIPModel.from_pretrained has them
    ...     untrained = CLIPModel(CLIPConfig())
    >>> bank = vn.concepts.Clip(untrained, None, ["a dog", "grass"])
    >>> [c.name for c in bank.concepts("picture")]
    ['looks like:a dog', 'looks like:grass']
    """

    model: Any
    processor: Any
    names: Sequence[str] | None = None
    template: str = "a photo of {}"
    anything: Sequence[str] = ANYTHING
    generic: tuple[str, ...] = ()
    name = "clip"
    on_device = True

    def __post_init__(self) -> None:
        check_model(self.model, "Clip")
        if (
            isinstance(self.names, str)
            or not self._names
            or not all(isinstance(n, str) and n.strip() for n in self._names)
        ):
            raise ValueError(f"names={self.names!r}: a list of words is needed; None takes vlm_neurons' own")
        if "{}" not in self.template or not self.anything:
            raise ValueError("template needs {} where the word goes, and anything at least one text")

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(visual_words() if self.names is None else self.names))

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """The words, each once; none of texts."""
        names, generic = self._names if side == "picture" else (), [f"looks like:{g}" for g in self.generic]
        return tuple(labelled(Concept("looks like", name), name, generic) for name in names)

    def identity(self) -> dict[str, Any]:
        """Weights, words and how they are said."""
        said = digest([self._names, self.template, list(self.anything)])
        return {"version": 1, "model": fingerprint(self.model, self.model.config, self.processor)[:16], "words": said}

    def remark(self, model: nn.Module) -> str:
        """That a model looks at pixels with this CLIP's own tower, or with one that was trained on from it.

        Args:
            model: the model that is scanned.
        """
        own = self.model.vision_model.embeddings.patch_embedding.weight
        for other in model.parameters():
            if other.shape == own.shape:
                both = torch.stack([w.detach().float().cpu().flatten() for w in (own, other)])
                if float(torch.corrcoef(both)[0, 1]) > ALIKE:
                    return (
                        "The vision tower of this model is the one of the Clip bank: bank and neurons share their "
                        "eyes, and what both mistake looks like an explanation. Try another CLIP beside it."
                    )
        return ""

    @cached_property
    def _words(self) -> Tensor:
        """What a feature is multiplied by: of every word its own embedding less the mean of anything's."""
        said = text_features(self.model, self.processor, [self.template.format(name) for name in self._names])
        return said - text_features(self.model, self.processor, list(self.anything)).mean(0)

    def maps(self, view: View) -> Maps:
        """Of one sample; a batch at a time is quicker."""
        return self.maps_of_batch([view], self.model.device)[0]

    def maps_of_batch(self, views: Sequence[View], device: device | str) -> list[Maps]:
        """Differences of cosines, of every patch with every word. A picture that several samples have is seen once."""
        side, n = patches_a_side(self.model), len(self._names)
        each = [list(pictures_of(view)) for view in views]
        pictures = {shown.key: shown.pixels for one in each for shown in one}
        cells: dict[Any, np.ndarray] = {}
        for start in range(0, len(pictures), BATCH):
            some = [*pictures][start : start + BATCH]
            features = patch_features(self.model, self.processor, [pictures[key] for key in some])
            found = (features @ self._words.T).transpose(1, 2).unflatten(2, (side, side)).cpu().numpy()
            cells |= dict(zip(some, found, strict=True))
        maps = []
        for view, one in zip(views, each, strict=True):
            values = np.zeros((view.n_patches, n), np.float32)
            for shown in one:
                scaled = shown.boxes * side / np.tile(shown.pixels.size, 2)
                values[shown.where] = Boxes.over(scaled, side, side).means(cells[shown.key]).T
            maps.append(Maps(values, no_text(view)))
        return maps
