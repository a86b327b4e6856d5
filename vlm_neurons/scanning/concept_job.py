"""What a scan with a bank of concepts shares: the bank, folds, random units and shifts; and what it will cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm_neurons._checks import short
from vlm_neurons.models.reading import of_tokens, readers, together
from vlm_neurons.protocols import SIDES, ConceptBank, Maps, Side, View
from vlm_neurons.scanning.concept_files import by_fold, folds_of, join, keep_shifts
from vlm_neurons.scanning.concept_recorder import FAR, ConceptRecorder
from vlm_neurons.scanning.concept_shared import sees
from vlm_neurons.scanning.concept_sums import concepts_bytes, sums_bytes
from vlm_neurons.scanning.nulls import RandomUnits
from vlm_neurons.scanning.viewing import Concepts, check_steady, concepts_of, maps_of, views_of
from vlm_neurons.sites import at
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData, Sample
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.scanning.blocks import ColumnInfo

OF_CONCEPTS = "concepts"  # name of the shifts of concepts
Told = list[Maps] | list[View]  # of the rows of a batch: views where the bank is asked by the process that scans


@dataclass(frozen=True, eq=False)
class Asked:
    """What a scan is asked about concepts.

    Attributes:
        bank: with what it takes from the data.
        concepts: of the bank.
        folds: how many.
        null_directions: random units a layer.
        home: fold of every sample.
        digests: of the images of every sample.
    """

    bank: ConceptBank
    concepts: Concepts
    folds: int
    null_directions: int
    home: list[int]
    digests: list[tuple[str, ...]]

    @classmethod
    def of(cls, bank: ConceptBank, folds: int, null_directions: int, data: ImageTextData) -> Asked:
        """Fit a bank to data.

        Raises:
            ValueError: the bank is none, or has no concepts or too many.
        """
        if not isinstance(bank, ConceptBank):
            raise ValueError(
                f"concepts={short(bank)} is no bank of concepts: give one, such as vn.concepts.Pixels() + "
                "vn.concepts.Words(), or an object of a class that inherits vlm_neurons.protocols.ConceptBank"
            )
        fitted = bank.fitted([one.response for one in data.facts if one.response is not None])
        found = concepts_of(fitted)
        return cls(fitted, found, folds, null_directions, folds_of(data.facts, folds), data.image_digests)

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides the numbers, for `scan.json`."""
        identity = json.dumps([self.record, self.bank.identity()], sort_keys=True)
        return {
            "concepts": self.bank.name,
            "concepts_identity": hashlib.sha256(identity.encode()).hexdigest(),
            "folds": self.folds,
            "null_directions": self.null_directions,
        }

    @property
    def record(self) -> dict[str, Any]:
        """The concepts by side, for `scan.json`."""
        return {side: [[c.kind, c.value, c.phrase, c.generic] for c in self.concepts[side]] for side in SIDES}

    def views(self, batch: Batch, samples: Sequence[Sample]) -> list[View]:
        """What the bank is told of a batch."""
        return views_of(batch, samples, [self.digests[s.id] for s in samples])

    def tell(self, batch: Batch, samples: Sequence[Sample]) -> Told:
        """What the recorder needs of a batch; for loaders."""
        views = self.views(batch, samples)
        return views if self.bank.on_device else maps_of(self.bank, self.concepts, views)

    def maps(self, told: Told, device: torch.device) -> list[Maps]:
        """The maps of a batch."""
        views = [one for one in told if isinstance(one, View)]
        return maps_of(self.bank, self.concepts, views, str(device)) if views else told  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class ConceptJob:
    """A scan's sums of concepts.

    Attributes:
        asked: what it is asked.
        random: random units.
        sizes: units of every place, random ones too; 1 where those that fire get rows as they do.
        shifts: see `ConceptRecorder`.
        of_concepts: see `ConceptRecorder`.
    """

    asked: Asked
    random: list[RandomUnits]
    sizes: dict[str, int]
    shifts: dict[tuple[str, Side], Tensor]
    of_concepts: dict[Side, Tensor]

    @classmethod
    def begin(
        cls,
        asked: Asked,
        random: list[RandomUnits],
        model: HookedVLM,
        columns: Sequence[ColumnInfo],
        first: Batch,
        views: list[View],
        fast: bool,
    ) -> ConceptJob:
        """Look at the first batch.

        Raises:
            ValueError: the bank gives what cannot be used, or other maps when it is asked again.
        """
        check_steady(asked.bank, asked.concepts, views[0], str(model.device) if asked.bank.on_device else None)
        maps = asked.maps(views, model.device)
        of_concepts = {side: _mean(torch.from_numpy(getattr(maps[0], side))) for side in SIDES}
        places = list(dict.fromkeys(c.hook for c in columns))
        sizes = {c.hook: c.rows for c in columns} | {r.place: r.gate.shape[1] for r in random}
        return cls(asked, random, sizes, shifts_of(model, places, first, fast), of_concepts)

    def of_run(self, path: Path, run: str) -> ConceptJob:
        """With the shifts of a run that was begun before, or theirs stored."""
        own = {f"{place}/{side}": shift for (place, side), shift in self.shifts.items()}
        kept = keep_shifts(path, run, own | {f"{OF_CONCEPTS}/{side}": self.of_concepts[side] for side in SIDES})
        shifts = {(place, side): kept[f"{place}/{side}"] for place in self.sizes for side in SIDES
                  if f"{place}/{side}" in kept}  # fmt: skip
        return replace(self, shifts=shifts, of_concepts={side: kept[f"{OF_CONCEPTS}/{side}"] for side in SIDES})

    def recorder(self) -> ConceptRecorder:
        """An empty one."""
        return ConceptRecorder(self.sizes, self.shifts, self.of_concepts)

    def observers(self, recorder: ConceptRecorder) -> dict[str, list[Callable[[Tensor], None]]]:
        """What looks at the hooks that random units read."""
        found: dict[str, list[Callable[[Tensor], None]]] = {}
        alike: dict[tuple[str, ...], list[RandomUnits]] = {}
        for units in self.random:
            alike.setdefault(units.hooks, []).append(units)
        for hooks, every in alike.items():  # a layer's experts look at one copy of what they read

            def look(tensors: dict[str, Tensor], every: list[RandomUnits] = every) -> None:
                for units in every:
                    recorder.take_in(units.place, *units.of(tensors), None)

            for hook, fn in together(hooks, look):
                found.setdefault(hook, []).append(fn)
        return found

    def batches(self, ids: Sequence[int], size: int) -> list[list[int]]:
        """The samples of a block as batches, fold by fold."""
        return by_fold(ids, self.asked.home, size)

    def add_to(self, path: Path, run: str, before: Sequence[int], block: int) -> None:
        """Add the sums of a block that is done to those of others that this process did."""
        for fold in range(self.asked.folds):
            join(path, run, fold, [*before, block])

    @property
    def fold_bytes(self) -> int:
        """Bytes of the sums of one fold."""
        k = {side: len(self.asked.concepts[side]) for side in SIDES}
        units = sum(sums_bytes(d, k[s]) for place, d in self.sizes.items() for s in SIDES if k[s] and sees(place, s))
        by_image = {at(place)[0].name for place in self.sizes if not sees(place, "text")}  # sums of their own
        return units + concepts_bytes(k["text"]) + (1 + len(by_image)) * concepts_bytes(k["picture"])

    def cost(self, blocks: int, block_size: int) -> str:
        """What the sums take, in words."""
        k, per = self.asked.concepts, self.fold_bytes / 2**20
        n_random = sum(units.gate.shape[1] for units in self.random)
        return (
            f"{len(k['picture']):,} concepts of the picture and {len(k['text']):,} of the text with "
            f"{sum(self.sizes.values()):,} units, {n_random:,} of them random, in {self.asked.folds} folds: {per:,.1f} "
            "MiB of memory for the sums of a fold, three times that while they are added up, and "
            f"{self.disk / 2**20:,.1f} MiB of disk for those of a block of {block_size:,} samples (the unit of "
            f"resuming; {blocks} to do) and of the blocks before it; more where samples are not annotated, and for "
            "every latent of a dictionary that fires."
        )

    @property
    def disk(self) -> int:
        """Bytes on disk at most: of a block, of those before it, and of one fold while both are added up."""
        return (2 * self.asked.folds + 1) * self.fold_bytes

    def check_memory(self, free: int | None) -> None:
        """Refuse what does not fit into memory.

        Raises:
            ValueError: one fold's sums, and those that are added to them, cannot be held.
        """
        needed = 3 * self.fold_bytes
        if free is not None and needed > free:
            n_picture, n_text = (len(self.asked.concepts[side]) for side in SIDES)
            raise ValueError(
                f"sums of {sum(self.sizes.values()):,} units with {n_picture:,} + {n_text:,} concepts take "
                f"{needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free: scan fewer sites at a time, "
                "or take fewer concepts"
            )


def _mean(values: Tensor) -> Tensor:
    return values.nanmean(0).nan_to_num(0.0) if len(values) else torch.zeros(values.shape[1])


def shifts_of(model: HookedVLM, places: Sequence[str], first: Batch, fast: bool) -> dict[tuple[str, Side], Tensor]:
    """Means over the first batch of the units of places where some are far from 0, by side."""
    found: dict[tuple[str, Side], Tensor] = {}
    masks = {
        side: first.mask(kind).flatten() for side, kind in zip(SIDES, (TokenKind.VISUAL, TokenKind.TEXT), strict=True)
    }

    def see(place: str, values: Tensor, defined: Tensor | None) -> None:
        acts, there, patch = of_tokens(model, first, place, values, defined)
        flat = acts.flatten(0, 1).float()
        flat = flat if there is None else flat.masked_fill(~there.flatten(0, 1), 0.0)
        for side, mask in masks.items():
            if patch is not None and side == "text":
                continue
            own = flat if patch is not None else flat[mask.to(flat.device)]
            if len(own) < 2:
                continue
            mean, spread = own.mean(0), own.std(0)
            if bool((mean.abs() > FAR * spread).any()) and bool(mean.isfinite().all()):
                found[place, side] = mean.cpu()

    # sums of what is listed are float64, and need none
    model.observe(first, readers(places, see, listed=lambda place, values: None), fast=fast)
    return found
