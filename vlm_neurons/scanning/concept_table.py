"""The table of a scan with concepts: what every unit answers to, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from vlm_neurons.protocols import SIDES, Concept, Side
from vlm_neurons.scanning.concept_files import parts, read_part
from vlm_neurons.scanning.concept_moments import (
    FoldSums,
    best,
    concept_correlations,
    held_out,
    interval,
    r_of_sum,
    several,
    whole_bank,
)
from vlm_neurons.scanning.concept_recorder import ROWS
from vlm_neurons.scanning.nulls import place_of
from vlm_neurons.sites import Address, at
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    import pandas as pd

MIN_IMAGES = 20  # below so many in a half of the data nothing is chosen
RARE = 0.95  # a second concept counts where its gain is above that of so many random units


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
        return [read_part(file, prefix) for file in self.files]


@dataclass(frozen=True)
class SideSums:
    """What a side's units share: halves of the folds, and concepts.

    Attributes:
        concepts: of the side.
        halves: the folds, in two parts.
        images: that have each concept, in all, and in each half.
        min_images: below so many in a half a concept is not chosen.
    """

    concepts: tuple[Concept, ...]
    halves: tuple[list[int], list[int]]
    images: Float[Tensor, "three k"]
    min_images: int

    @property
    def allowed(self) -> Bool[Tensor, "k"]:
        """Concepts that there are enough images of."""
        return (self.images[1:] >= self.min_images).all(0)

    @property
    def generic(self) -> Bool[Tensor, "k"]:
        """Concepts that say little."""
        return torch.tensor([c.generic for c in self.concepts], dtype=torch.bool)


@dataclass(frozen=True)
class Measured:
    """r of units of one place on one side, with the sign of one pole.

    Attributes:
        sums: by fold.
        whole: r over all folds.
        halves: r over each half.
        among: correlations among concepts over all folds, and over each half.
        sign: 1 or -1.
    """

    sums: FoldSums
    whole: Float[Tensor, "d k"]
    halves: tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]
    among: tuple[Float[Tensor, "k k"], Float[Tensor, "k k"], Float[Tensor, "k k"]]
    sign: int = 1

    def flipped(self) -> Measured:
        """Of the other pole: r of -a is -r of a."""
        return Measured(self.sums, -self.whole, (-self.halves[0], -self.halves[1]), self.among, -self.sign)

    def gains(self, allowed: Bool[Tensor, "k"]) -> Float[Tensor, "three d"]:
        """Held-out r of one, two and three concepts, fitted on one half and told on the other, both ways."""
        both = []
        for fit, told in ((0, 1), (1, 0)):
            chosen = several(self.halves[fit], self.among[1 + fit], allowed)
            both.append(torch.stack([r_of_sum(self.halves[told], self.among[1 + told], s, w) for s, w in chosen]))
        return (both[0] + both[1]) / 2


def concept_table(path: Path, run: str, info: dict[str, Any], n_blocks: int, min_images: int) -> pd.DataFrame:
    """See `Run.concepts`."""
    import pandas as pd

    summed = Summed.of(path, run, info, n_blocks)
    poles: dict[str, list[Pole]] = {}
    for column in info["columns"]:
        poles.setdefault(column["hook"], []).append(column["pole"])
    tables = []
    with tqdm(total=len(poles), desc="concepts", unit="layer", delay=3, disable=None) as bar:
        for place, own in poles.items():
            d = next(c["d"] for c in info["columns"] if c["hook"] == place)
            for side in SIDES:
                tables += _of_side(summed, info, place, side, d, own, min_images)
            bar.update()
    table = pd.concat([t for t in tables if len(t)], ignore_index=True)
    table.attrs["parameters"] = {"min_images": min_images, **{k: info["parameters"][k] for k in ("concepts", "folds")}}
    return table


def _of_side(
    summed: Summed, info: dict[str, Any], place: str, side: Side, d: int, poles: Sequence[Pole], min_images: int
) -> list[pd.DataFrame]:
    concepts, by_image = summed.concepts[side], at(place)[0].indexed_by == "image"
    if not concepts or (by_image and side == "text"):
        return []
    shared = [f for f in summed.read(f"concepts/{ROWS}/{side}/")]
    there = [fold for fold, f in enumerate(shared) if f]
    if len(there) < 4:
        return []
    images = torch.stack([f["present"] for f in shared if f])
    halves = list(range(0, len(there), 2)), list(range(1, len(there), 2))
    counts = torch.stack([images.sum(0), *(images[half].sum(0) for half in halves)])
    of_side = SideSums(concepts, halves, counts, min_images)
    kind = place if by_image else ROWS
    grams = [f for f in summed.read(f"concepts/{kind}/{side}/") if f]
    among = tuple(
        concept_correlations({k: torch.stack([grams[i][k] for i in half]).sum(0) for k in grams[0]})
        for half in (range(len(there)), *halves)
    )
    own = _measure(summed, place, side, d, there, of_side, among)
    random = None
    if any("n" in f for f in summed.read(f"{place_of(place)}/{side}/")):
        random = _measure(summed, place_of(place), side, info["parameters"]["null_directions"], there, of_side, among)
    return [
        _rows(place, side, pole, of_side, own if pole == "+" else own.flipped(),
              random if random is None or pole == "+" else random.flipped())
        for pole in poles
    ]  # fmt: skip


def _measure(
    summed: Summed, place: str, side: Side, d: int, there: Sequence[int], shared: SideSums, among: tuple[Any, ...]
) -> Measured:
    read = summed.read(f"{place}/{side}/")
    sums = FoldSums.of([read[i] for i in there], d, len(shared.concepts))
    one, other = (sums.over(half).r()[0] for half in shared.halves)
    return Measured(sums, sums.over(range(len(there))).r()[0], (one, other), among)


def _rows(place: str, side: Side, pole: Pole, shared: SideSums, own: Measured, random: Measured | None) -> pd.DataFrame:
    """A row a unit."""
    import pandas as pd

    site, layer = at(place)
    d, allowed = len(own.whole), shared.allowed
    table: dict[str, Any] = {
        "neuron": [site.id(Address(place, i, pole)) for i in range(d)], "side": side, "site": site.name, "hook": place,
        "layer": layer, "index": range(d), "pole": pole,
    }  # fmt: skip
    if not bool(allowed.any()):
        return pd.DataFrame({**table, "concept": "", "phrase": "", "n_images": 0})
    chosen = best(own.whole, allowed)
    low, high = interval(own.sums, chosen)
    table |= _named("concept", shared, chosen) | {
        "r": held_out(own.halves, allowed),
        "r_low": low if own.sign > 0 else -high, "r_high": high if own.sign > 0 else -low,
        "n_images": shared.images[0].long()[chosen],
    }  # fmt: skip
    for name, kept in (("specific", allowed & ~shared.generic), ("generic", allowed & shared.generic)):
        table |= _best_of(name, shared, own, kept)
    specific = allowed & ~shared.generic
    table["p_random"] = np.full(d, np.nan)
    if random is not None and bool(specific.any()):
        null = held_out(random.halves, specific)
        above = len(null) - torch.searchsorted(null.sort().values, held_out(own.halves, specific))
        table["p_random"] = (1 + above) / (1 + len(null))
    agree = own.sign * own.sums.r()
    table["folds_agree"] = sum((best(r, allowed) == chosen).long() for r in agree)
    table["n_folds"] = len(agree)
    second = best(own.whole.scatter(1, chosen[:, None], -torch.inf), allowed)
    table |= _named("runner_up", shared, second) | {"r_runner_up": own.whole.gather(1, second[:, None]).squeeze(1)}
    table |= _several(shared, own, random, allowed)
    return pd.DataFrame({k: v.numpy() if isinstance(v, Tensor) else v for k, v in table.items()})


def _named(name: str, shared: SideSums, which: Tensor) -> dict[str, Any]:
    phrase = "phrase" if name == "concept" else f"{name}_phrase"
    found = [shared.concepts[i] for i in which.tolist()]
    return {name: [c.name for c in found], phrase: [c.phrase or c.name for c in found]}


def _best_of(name: str, shared: SideSums, own: Measured, kept: Bool[Tensor, "k"]) -> dict[str, Any]:
    if not bool(kept.any()):
        return {name: "", f"r_{name}": np.nan}
    return {
        name: [shared.concepts[i].name for i in best(own.whole, kept).tolist()],
        f"r_{name}": held_out(own.halves, kept),
    }


def _several(shared: SideSums, own: Measured, random: Measured | None, allowed: Bool[Tensor, "k"]) -> dict[str, Any]:
    """Shares of the bank's r^2, and further concepts where they gain more than random units mostly do."""
    chosen = several(own.whole, own.among[0], allowed)
    r = torch.stack([r_of_sum(own.whole, own.among[0], s, w) for s, w in chosen])
    every = whole_bank(own.whole, own.among[0]).clamp(min=1e-12)
    found: dict[str, Any] = {
        "share_one": (r[0] ** 2 / every).clamp(max=1),
        "share_three": (r[2] ** 2 / every).clamp(max=1),
    }
    held = own.gains(allowed)
    found |= {"r_two": held[1], "r_three": held[2]}
    names: list[list[str]] = [[] for _ in range(len(own.whole))]
    if random is not None:
        null = random.gains(allowed)
        go_on = torch.ones(len(own.whole), dtype=torch.bool)
        for m in (1, 2):
            gain, theirs = held[m] - held[m - 1], null[m] - null[m - 1]
            go_on = go_on & (gain > theirs.quantile(RARE).clamp(min=0)) & (chosen[m][1][:, m] > 0)
            for i in go_on.nonzero().flatten().tolist():
                names[i].append(shared.concepts[int(chosen[m][0][i, m])].name)
    return {**found, "also": ["; ".join(own) for own in names]}
