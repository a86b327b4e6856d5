"""The table of a scan with concepts: what every unit answers to, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vlm_neurons.protocols import SIDES, Side
from vlm_neurons.scanning.concept_recorder import ROWS
from vlm_neurons.scanning.concept_shared import MIN_FOLDS, SideSums, Summed, check_folds, sees
from vlm_neurons.scanning.concept_units import AT_ONCE, Measured, Null, told_of
from vlm_neurons.scanning.nulls import place_of
from vlm_neurons.sites import Address, at
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    import pandas as pd

MIN_IMAGES = 20  # below so many in a half of the data nothing is chosen
PHRASES = {"concept": "phrase", "runner_up": "runner_up_phrase"}  # columns of concepts that are told in words too
NOTHING: dict[str, Any] = {  # of a unit where no concept has images enough
    "concept": "", "phrase": "", "r": np.nan, "r_low": np.nan, "r_high": np.nan, "r_all": np.nan, "halves_agree": False,
    "n_images": 0, "specific": "", "r_specific": np.nan, "generic": "", "r_generic": np.nan,
    "focus": np.nan, "p_random": np.nan,
    "folds_agree": 0, "n_folds": 0, "runner_up": "", "runner_up_phrase": "", "r_runner_up": np.nan,
    "share_one": np.nan, "share_three": np.nan, "r_two": np.nan, "r_three": np.nan, "also": "",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One place of a run, and what is told of it, a pole and side at a time.

    Attributes:
        name: of the place.
        d: units.
        poles: of its site.
        rows: tables of the poles and sides that were told.
        random: what random units of the layer answer to.
        ids: of the units, by pole, once they are needed.
    """

    name: str
    d: int
    poles: Sequence[Pole]
    rows: list[pd.DataFrame] = field(default_factory=list)
    random: list[dict[str, Any]] = field(default_factory=list)
    ids: dict[Pole, list[str]] = field(default_factory=dict)

    def tell(self, summed: Summed, side: Side, shared: SideSums, n_random: int) -> None:
        """Read the sums of a side, and go through the units some at a time."""
        nulls: dict[Pole, Null] = {}
        read = summed.read(f"{place_of(self.name)}/{side}/")
        if any("n" in f for f in read):
            random = Measured.of(read, n_random, shared)
            for pole in self.poles:
                own = random if pole == "+" else random.flipped()
                self.random.append(_random(self.name, side, pole, own))
                nulls[pole] = Null.of(own)
        if not bool(shared.allowed.any()):
            self.rows.extend(self._frame(side, pole, {"n_folds": len(shared.there)}) for pole in self.poles)
            return
        read = summed.read(f"{self.name}/{side}/")
        found: dict[Pole, list[dict[str, Tensor]]] = {pole: [] for pole in self.poles}
        for first in range(0, self.d, AT_ONCE):
            some = Measured.of(read, self.d, shared, slice(first, first + AT_ONCE))
            for pole, told in found.items():
                told.append(told_of(some if pole == "+" else some.flipped(), nulls.get(pole)))
        for pole, told in found.items():
            columns = {name: torch.cat([one[name] for one in told]).numpy() for name in told[0]}
            self.rows.append(self._frame(side, pole, _in_words(columns, shared)))

    def _frame(self, side: Side, pole: Pole, told: Mapping[str, Any]) -> pd.DataFrame:
        import pandas as pd

        site, layer = at(self.name)
        if pole not in self.ids:
            self.ids[pole] = [site.id(Address(self.name, i, pole)) for i in range(self.d)]
        first = {"neuron": self.ids[pole], "side": side, "site": site.name, "hook": self.name, "layer": layer,
                 "index": range(self.d), "pole": pole}  # fmt: skip
        return pd.DataFrame({**first, **NOTHING, "parts": [[] for _ in range(self.d)], **told})


def _in_words(columns: dict[str, np.ndarray], shared: SideSums) -> dict[str, Any]:
    """Columns with concepts by name, and the last of them said together."""
    names = np.array([*(c.name for c in shared.concepts), ""], object)  # the last one for -1
    phrases = np.array([*(c.phrase or c.name for c in shared.concepts), ""], object)
    found: dict[str, Any] = {"n_folds": len(shared.there)}
    sets = [columns["concept"], columns.pop("second"), columns.pop("third")]
    weights = np.stack([columns.pop(f"weight_{i}") for i in range(len(sets))], 1).round(3).tolist()
    second, third = names[sets[1]], names[sets[2]]
    for name, values in columns.items():
        of_concepts = name in ("concept", "specific", "generic", "runner_up")
        found[name] = names[values] if of_concepts else values
        if name in PHRASES:
            found[PHRASES[name]] = phrases[values]
    found["also"] = [f"{a}; {b}" if b else a for a, b in zip(second.tolist(), third.tolist(), strict=True)]
    said = zip(*(phrases[one].tolist() for one in sets), strict=True)
    found["parts"] = [
        [{"phrase": phrase, "weight": w} for phrase, w in zip(own, w_own, strict=True) if phrase] if own[1] else []
        for own, w_own in zip(said, weights, strict=True)
    ]
    return found


def concept_table(path: Path, run: str, info: dict[str, Any], n_blocks: int, min_images: int) -> pd.DataFrame:
    """See `Run.concepts`. Sums are read a layer and side at a time."""
    import pandas as pd

    summed = Summed.of(path, run, info, n_blocks)
    places: dict[str, Place] = {}
    for column in info["columns"]:
        name = column["hook"]
        own = places.get(name)
        places[name] = Place(name, column["d"], [*(own.poles if own else ()), column["pole"]])
    shared = cache(lambda kind, side: SideSums.of(summed, kind, side, min_images))
    check_folds(summed, path, places)
    with tqdm(total=len(places), desc="concepts", unit="layer", delay=3, disable=None) as bar:
        for place in places.values():
            for side in SIDES:
                if not summed.concepts[side] or not sees(place.name, side) or len(summed.images[side]) < MIN_FOLDS:
                    continue
                site = at(place.name)[0]
                kind = site.name if site.indexed_by == "image" else ROWS
                place.tell(summed, side, shared(kind, side), info["parameters"]["null_directions"])
            bar.update()
    tables = [table for place in places.values() for table in place.rows]
    table = pd.concat([t for t in tables if len(t)], ignore_index=True)
    table.attrs["parameters"] = {"min_images": min_images, **{k: info["parameters"][k] for k in ("concepts", "folds")}}
    table.attrs["random"] = _by_layer([told for place in places.values() for told in place.random])
    return table


def _by_layer(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Random units counted by layer: those of its experts together."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in told:
        own = found.setdefault(
            tuple(one[k] for k in ("site", "pole", "layer", "side")), {**one, "n": 0, "concepts": {}}
        )
        own["n"] += one["n"]
        for name, n in one["concepts"].items():
            own["concepts"][name] = own["concepts"].get(name, 0) + n
    return [*found.values()]


def _random(place: str, side: Side, pole: Pole, own: Measured) -> dict[str, Any]:
    """How many random units of a layer have which concept, as far as their interval is above 0."""
    site, layer = at(place)
    found: dict[str, int] = {}
    if bool(own.shared.allowed.any()):
        concepts = own.shared.concepts
        sure = own.chosen[own.bounds()[0] > 0].bincount(minlength=len(concepts)).tolist()
        found = {c.name: n for c, n in zip(concepts, sure, strict=True) if n}
    return {"site": site.name, "pole": pole, "layer": layer, "side": side, "n": len(own.whole), "concepts": found}
