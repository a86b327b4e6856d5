"""The sums of a finished run, and what the units of one kind of site share of them: folds, halves, and concepts."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.protocols import SIDES, Concept, Side
from vlm_neurons.scanning.concept_files import names_in, parts, read_part
from vlm_neurons.scanning.concept_moments import concept_correlations, concept_spreads
from vlm_neurons.scanning.concept_recorder import ROWS
from vlm_neurons.scanning.concept_several import bank_inverse
from vlm_neurons.sites import at

MIN_FOLDS = 4  # with pictures, or responses; below there is no interval
_ANNOTATED = {"picture": "pictures", "text": "responses"}


@dataclass(frozen=True)
class Summed:
    """The sums of a run.

    Attributes:
        files: of every fold.
        concepts: by side.
    """

    files: list[Path]
    concepts: dict[Side, tuple[Concept, ...]]

    @classmethod
    def of(cls, path: Path, run: str, info: dict[str, Any], n_blocks: int) -> Summed:
        """Open the sums of a run that is finished.

        Raises:
            ValueError: it was scanned without concepts, or sums are missing.
        """
        if "concepts" not in info:
            raise ValueError(f"{path} was scanned without concepts: vn.scan(..., concepts=bank) into another directory")
        files = []
        for fold in range(info["parameters"]["folds"]):
            chosen = parts(path, run, fold, range(n_blocks))
            if [len(blocks) for _, blocks in chosen] != [n_blocks]:
                raise ValueError(f"{path}: sums of fold {fold} are missing; make the same scan call again")
            files.append(chosen[0][0])
        named = {side: tuple(Concept(*one) for one in info["concepts"][side]) for side in SIDES}
        return cls(files, named)

    def read(self, prefix: str) -> list[dict[str, Tensor]]:
        """What every fold holds of a place and side."""
        found = []
        for file, names in zip(self.files, self._names, strict=True):
            first = bisect_left(names, prefix)
            own = list(takewhile(lambda name: name.startswith(prefix), islice(names, first, None)))
            found.append(read_part(file, own, prefix))
        return found

    @cached_property
    def _names(self) -> list[list[str]]:
        """Of the sums in every file, sorted."""
        return [names_in(file) for file in self.files]

    @cached_property
    def images(self) -> dict[Side, dict[int, Tensor]]:
        """Of every fold where something of a side is annotated, how many images (samples) have each concept."""
        found: dict[Side, dict[int, Tensor]] = {}
        for side in SIDES:
            annotated, present = (self.read(f"concepts/{ROWS}/{side}/{name}") for name in ("annotated", "present"))
            found[side] = {i: present[i][""] for i, f in enumerate(annotated) if f and bool(f[""].any())}
        return found


@dataclass(frozen=True)
class SideSums:
    """What the units of one kind of site share on a side: folds, halves of them, and concepts.

    Attributes:
        concepts: of the side.
        there: the folds where something is annotated.
        halves: places in `there`, in two parts.
        images: that have each concept, in all, and in each half.
        among: correlations among concepts over all folds, and over each half.
        spreads: standard deviation of each concept over all folds.
        min_images: below so many in a half a concept is not chosen.
    """

    concepts: tuple[Concept, ...]
    there: list[int]
    halves: tuple[list[int], list[int]]
    images: Float[Tensor, "three k"]
    among: tuple[Float[Tensor, "k k"], Float[Tensor, "k k"], Float[Tensor, "k k"]]
    spreads: Float[Tensor, "k"]
    min_images: int

    @classmethod
    def of(cls, summed: Summed, kind: str, side: Side, min_images: int) -> SideSums:
        """Of a side with enough folds."""
        own = summed.images[side]
        there, images = [*own], torch.stack([*own.values()])
        halves = list(range(0, len(there), 2)), list(range(1, len(there), 2))
        counts = torch.stack([images.sum(0), *(images[half].sum(0) for half in halves)])
        read = summed.read(f"concepts/{kind}/{side}/")
        grams = [read[i] for i in there]
        every, *both = (
            {k: torch.stack([grams[i][k] for i in half]).sum(0) for k in grams[0]}
            for half in (range(len(there)), *halves)
        )
        among = concept_correlations(every), concept_correlations(both[0]), concept_correlations(both[1])
        return cls(summed.concepts[side], there, halves, counts, among, concept_spreads(every), min_images)

    @cached_property
    def allowed(self) -> Bool[Tensor, "k"]:
        """Concepts that there are enough images of."""
        return (self.images[1:] >= self.min_images).all(0)

    @cached_property
    def generic(self) -> Bool[Tensor, "k"]:
        """Concepts that say little."""
        return torch.tensor([c.generic for c in self.concepts], dtype=torch.bool)

    @cached_property
    def specific(self) -> Bool[Tensor, "k"]:
        """Concepts that say something, and that there are enough images of."""
        return self.allowed & ~self.generic

    @cached_property
    def bank_inverse(self) -> Float[Tensor, "k k"]:
        """Of correlations among all concepts, over all folds."""
        return bank_inverse(self.among[0])


def check_folds(summed: Summed, path: Path, places: Iterable[str]) -> None:
    """Refuse sums of so few folds that nothing can be told, and say where one side has too few.

    Raises:
        ValueError: see above.
    """
    read = [side for side in SIDES if any(sees(place, side) for place in places)]
    there = {side: len(summed.images[side]) for side in read}
    told = ", ".join(f"{n} with annotated {_ANNOTATED[side]}" for side, n in there.items())
    text = f"{path}: of {len(summed.files)} folds {told}; {MIN_FOLDS} are needed to tell how sure r is"
    if max(there.values(), default=0) < MIN_FOLDS:
        raise ValueError(f"{text}: scan more samples, with pictures and responses that the bank has concepts of")
    if any(0 < n < MIN_FOLDS for n in there.values()):
        warnings.warn(f"{text}: the table has no rows of the other side", stacklevel=4)


def sees(place: str, side: Side) -> bool:
    """Whether a place has values on a side."""
    return side == "picture" or at(place)[0].indexed_by != "image"
