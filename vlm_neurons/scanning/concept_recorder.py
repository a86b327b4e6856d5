"""From the units of a forward pass, and the maps of a bank, into the sums of one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.protocols import SIDES, Maps, Side
from vlm_neurons.scanning.concept_sums import ConceptSums, UnitSums
from vlm_neurons.sites import at as at_place
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.models import Batch

FAR = 3.0  # a mean so many standard deviations from 0 is taken off before anything is summed up
ROWS = ":rows"  # no name of a site; of all sites that have one value a position the places are the same
Where = slice | Tensor


@dataclass(frozen=True)
class Places:
    """The places of one side in a batch.

    Attributes:
        known_all: (where in the tensor of a site, which of `concepts`) of those where every concept is known.
        partly: the same of the others.
        concepts: values of all places, shifted; 0 where not known.
        known: where they are known; None: everywhere.
    """

    known_all: list[tuple[Where, Where]]
    partly: list[tuple[Where, Where]]
    concepts: Float[Tensor, "n k"]
    known: Bool[Tensor, "n k"] | None


def places_at(at: Int[Tensor, "n"], values: Float[Tensor, "n k"], shift: Float[Tensor, "k"]) -> Places:
    """Places at some numbers of a flattened tensor, in order, with what a bank says of them (NaN: not known)."""
    known = ~values.isnan()
    concepts = torch.where(known, values - shift, 0.0)
    whole = known.all(1)
    if bool(whole.all()):
        return Places(pieces(at, torch.arange(len(at))), [], concepts, None)
    split = [mask.nonzero().flatten() for mask in (whole, ~whole)]
    return Places(pieces(at[split[0]], split[0]), pieces(at[split[1]], split[1]), concepts, known)


def pieces(at: Int[Tensor, "n"], of: Int[Tensor, "n"]) -> list[tuple[Where, Where]]:
    """Numbers in runs of neighbours, that need no copy; as they are where there are many short runs.

    >>> pieces(torch.tensor([3, 4, 8]), torch.tensor([0, 1, 2]))
    [(slice(3, 5, None), slice(0, 2, None)), (slice(8, 9, None), slice(2, 3, None))]
    """
    if not len(at):
        return []
    cuts = [0, *(((at.diff() != 1) | (of.diff() != 1)).nonzero().flatten() + 1).tolist(), len(at)]
    if len(cuts) > 2 and len(at) < 16 * (len(cuts) - 1) and len(cuts) > 64:
        return [(at, of)]
    return [(slice(int(at[i]), int(at[j - 1]) + 1), slice(int(of[i]), int(of[j - 1]) + 1)) for i, j in pairwise(cuts)]


@dataclass
class ConceptRecorder:
    """Sums of one fold, and of those that a block holds already.

    Attributes:
        sizes: units of every place.
        shifts: of every place and side what is taken off its units; empty where that is not needed.
        of_concepts: of every side what is taken off its concepts.
    """

    sizes: dict[str, int]
    shifts: dict[tuple[str, Side], Tensor]
    of_concepts: dict[Side, Float[Tensor, "k"]]
    units: dict[tuple[str, Side], UnitSums] = field(default_factory=dict)
    concepts: dict[tuple[str, Side], ConceptSums] = field(default_factory=dict)
    _batch: dict[str, Places] = field(default_factory=dict)
    _by_image: dict[str, tuple[Tensor, Places]] = field(default_factory=dict)
    _patches: Tensor | None = None

    def begin(self, batch: Batch, maps: Sequence[Maps]) -> None:
        """Take in the maps of a batch that is about to be run.

        Args:
            batch: the batch.
            maps: of every row, as `maps_of` gives them.
        """
        self._by_image.clear()
        home = batch.row_of_patches
        self._patches = torch.full((len(batch.patches), len(self.of_concepts["picture"])), torch.nan)
        for row, one in enumerate(maps):
            self._patches[home == row] = torch.from_numpy(one.picture)
        index = batch.patch_index.cpu().flatten()
        visual = ((batch.kinds.cpu().flatten() == int(TokenKind.VISUAL)) & (index >= 0)).nonzero().flatten()
        text = batch.mask(TokenKind.TEXT).cpu().flatten().nonzero().flatten()
        words = torch.from_numpy(np.concatenate([one.text for one in maps]))
        self._batch = {
            "picture": places_at(visual, self._patches[index[visual]], self.of_concepts["picture"]),
            "text": places_at(text, words, self.of_concepts["text"]),
        }
        for side in SIDES:
            self._take_concepts(ROWS, side, self._batch[side])
        image = torch.tensor([p.image for p in batch.patches], dtype=torch.long)
        owner = torch.arange(len(maps)).repeat_interleave(torch.tensor([len(one.text) for one in maps]))
        self._count("picture", self._patches, image, len(batch.images))
        self._count("text", words, owner, len(maps))

    def _take_concepts(self, kind: str, side: Side, places: Places) -> None:
        k = places.concepts.shape[1]
        if not k:
            return
        sums = self.concepts.setdefault((kind, side), ConceptSums.empty(k))
        for parts, known in ((places.known_all, None), (places.partly, places.known)):
            for _, of in parts:
                sums.add(places.concepts[of], None if known is None else known[of])

    def _count(self, side: Side, values: Tensor, owner: Tensor, n: int) -> None:
        if not values.shape[1]:
            return
        sums = self.concepts.setdefault((ROWS, side), ConceptSums.empty(values.shape[1]))
        for into, there in ((sums.present, values > 0), (sums.annotated, ~values.isnan())):
            found = torch.zeros(n, values.shape[1], dtype=torch.long).index_add_(0, owner, there.long())
            into += (found > 0).sum(0)

    def take_in(self, place: str, values: Tensor, defined: Tensor | None, patch: Tensor | None) -> None:
        """Take in what a place holds in the batch that was begun; see `of_tokens`."""
        flat = values.flatten(0, 1)
        there = None if defined is None else defined.flatten(0, 1)
        if patch is None:
            for side in SIDES:
                self._add(place, side, flat, there, self._batch[side])
        elif self._patches is not None:
            self._add(place, "picture", flat, there, self._at_patches(at_place(place)[0].name, patch.cpu()))

    def _at_patches(self, site: str, patch: Int[Tensor, "n"]) -> Places:
        """The places of a site's layers in the batch, which are the same; what is known of them is summed up once."""
        assert self._patches is not None
        before = self._by_image.get(site)
        if before is not None and torch.equal(before[0], patch):
            return before[1]
        places = places_at(torch.arange(len(patch)), self._patches[patch], self.of_concepts["picture"])
        if before is None:
            self._take_concepts(site, "picture", places)
            self._by_image[site] = patch, places
        return places

    def _add(self, place: str, side: Side, flat: Tensor, defined: Tensor | None, places: Places) -> None:
        k = places.concepts.shape[1]
        if not k or not (places.known_all or places.partly):
            return
        key, device = (place, side), flat.device
        sums = self.units.get(key)
        if sums is None:
            sums = self.units[key] = UnitSums.empty(self.sizes[place], k, device)
        shift = self.shifts.get(key)
        concepts = places.concepts.to(device)
        known = torch.ones_like(concepts, dtype=torch.bool) if places.known is None else places.known.to(device)
        for parts, whole in ((places.known_all, defined is None), (places.partly, False)):
            for at, of in parts:
                acts = flat[at].float() if shift is None else flat[at].float() - shift.to(device)
                if whole:
                    sums.add(acts, concepts[of])
                    continue
                here = None if defined is None else defined[at]
                acts = acts if here is None else acts.masked_fill(~here, 0.0)
                sums.add_pairs(acts, concepts[of], here, known[of])

    def flush(self) -> dict[str, Tensor]:
        """All sums of the fold by name, such as `blocks.0.mlp.hook_act/text/ac`, and a new start."""
        found: dict[str, Tensor] = {}
        parts: list[tuple[tuple[str, Side], UnitSums | ConceptSums]] = [*self.units.items()]
        parts += [((f"concepts/{kind}", side), sums) for (kind, side), sums in self.concepts.items()]
        for (name, side), sums in parts:
            found |= {f"{name}/{side}/{key}": tensor for key, tensor in sums.tensors().items()}
        self.units.clear()
        self.concepts.clear()
        return found
