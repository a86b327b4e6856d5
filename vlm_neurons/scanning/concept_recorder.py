"""From the units of a forward pass, and the maps of a bank, into the sums of one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.protocols import SIDES, Maps, Side
from vlm_neurons.scanning.concept_listed import ListedSums
from vlm_neurons.scanning.concept_places import Places, places_at
from vlm_neurons.scanning.concept_sums import ConceptSums, UnitSums
from vlm_neurons.sites import at as at_place
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.models import Batch

FAR = 3.0  # a mean so many standard deviations from 0 is taken off before anything is summed up
ROWS = ":rows"  # no name of a site; of all sites that have one value a position the places are the same


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
    listed: dict[tuple[str, Side], ListedSums] = field(default_factory=dict)
    concepts: dict[tuple[str, Side], ConceptSums] = field(default_factory=dict)
    _batch: dict[Side, list[Places]] = field(default_factory=dict)
    _by_image: dict[str, tuple[Tensor, list[Places]]] = field(default_factory=dict)
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

    def _take_concepts(self, kind: str, side: Side, found: list[Places]) -> None:
        for places in found:
            sums = self.concepts.setdefault((kind, side), ConceptSums.empty(len(places.concepts)))
            sums.add(places.concepts, places.known)

    def _count(self, side: Side, values: Tensor, owner: Tensor, n: int) -> None:
        if not values.shape[1]:
            return
        sums = self.concepts.setdefault((ROWS, side), ConceptSums.empty(values.shape[1]))
        own = (owner == torch.arange(n)[:, None]).float()  # one product: to go through all values takes longer
        for into, there in ((sums.present, values > 0), (sums.annotated, ~values.isnan())):
            into += ((own @ there.float()) > 0).sum(0)

    def take_in(self, place: str, values: Tensor, defined: Tensor | None, patch: Tensor | None) -> None:
        """Take in what a place holds in the batch that was begun; see `of_tokens`."""
        flat = values.flatten(0, 1)
        there = None if defined is None else defined.flatten(0, 1)
        if patch is None:
            for side in SIDES:
                self._add(place, side, flat, there, self._batch[side])
        elif self._patches is not None:
            self._add(place, "picture", flat, there, self._at_patches(at_place(place)[0].name, patch.cpu()))

    def take_in_listed(self, place: str, values: Sparse) -> None:
        """The same of units that are 0 nearly everywhere."""
        device = values.value.device
        for side in SIDES:
            for places in (one.on(device) for one in self._batch[side]):
                if (place, side) not in self.listed:
                    self.listed[place, side] = ListedSums.empty(values.shape[-1], len(places.concepts), device)
                self.listed[place, side].add(values, places)

    def _at_patches(self, site: str, patch: Int[Tensor, "n"]) -> list[Places]:
        """The places of a site's layers in the batch, which are the same; what is known of them is summed up once."""
        assert self._patches is not None
        before = self._by_image.get(site)
        if before is not None and torch.equal(before[0], patch):
            return before[1]
        found = places_at(torch.arange(len(patch)), self._patches[patch], self.of_concepts["picture"])
        if before is None:
            self._take_concepts(site, "picture", found)
            self._by_image[site] = patch, found
        return found

    def _add(self, place: str, side: Side, flat: Tensor, defined: Tensor | None, found: list[Places]) -> None:
        key, device = (place, side), flat.device
        shift = self.shifts.get(key)
        shift = None if shift is None else shift.to(device)
        for places in (one.on(device) for one in found):
            if key not in self.units:
                self.units[key] = UnitSums.empty(self.sizes[place], len(places.concepts), device)
            sums, whole = self.units[key], defined is None and places.known is None
            if whole:
                sums.add_concepts(places.concepts.shape[1], *places.sums)
            for at, of in places.pieces():
                acts = flat[at].float() if shift is None else flat[at].float() - shift
                if whole:
                    sums.add(acts, places.concepts[:, of])
                    continue
                here = None if defined is None else defined[at]
                acts = acts if here is None else acts.masked_fill(~here, 0.0)
                known = None if places.known is None else places.known[:, of]
                sums.add_pairs(acts, places.concepts[:, of], here, known)

    def flush(self) -> dict[str, Tensor]:
        """All sums of the fold by name, such as `blocks.0.mlp.hook_act/text/ac`, and a new start."""
        found: dict[str, Tensor] = {}
        parts: list[tuple[tuple[str, Side], UnitSums | ListedSums | ConceptSums]] = [
            *self.units.items(), *self.listed.items()
        ]  # fmt: skip
        parts += [((f"concepts/{kind}", side), sums) for (kind, side), sums in self.concepts.items()]
        for (name, side), sums in parts:
            found |= {f"{name}/{side}/{key}": tensor for key, tensor in sums.tensors().items()}
        self.units.clear()
        self.listed.clear()
        self.concepts.clear()
        return found
