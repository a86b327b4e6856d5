"""The table of a scan with concepts: what every unit answers to, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from vlm_neurons.protocols import SIDES, Side
from vlm_neurons.scanning.concept_moments import (
    FoldSums,
    best,
    held_out,
    interval,
    r_of_sum,
    several,
    whole_bank,
)
from vlm_neurons.scanning.concept_recorder import ROWS
from vlm_neurons.scanning.concept_shared import MIN_FOLDS, SideSums, Summed, check_folds, sees
from vlm_neurons.scanning.nulls import place_of
from vlm_neurons.sites import Address, at
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    import pandas as pd

MIN_IMAGES = 20  # below so many in a half of the data nothing is chosen
RARE = 0.95  # a second concept counts where its gain is above that of so many random units


NOTHING: dict[str, Any] = {  # of a unit where no concept has images enough
    "concept": "", "phrase": "", "r": np.nan, "r_low": np.nan, "r_high": np.nan, "n_images": 0,
    "specific": "", "r_specific": np.nan, "generic": "", "r_generic": np.nan, "p_random": np.nan,
    "folds_agree": 0, "n_folds": 0, "runner_up": "", "runner_up_phrase": "", "r_runner_up": np.nan,
    "share_one": np.nan, "share_three": np.nan, "r_two": np.nan, "r_three": np.nan, "also": "",
}  # fmt: skip


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

    def bounds(self, concept: Int[Tensor, "d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
        """The interval of r of a concept each."""
        low, high = interval(self.sums, concept)
        return (low, high) if self.sign > 0 else (-high, -low)

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
    shared = cache(lambda kind, side: SideSums.of(summed, kind, side, min_images))
    check_folds(summed, path, poles)
    tables, random = [], list[dict[str, Any]]()
    with tqdm(total=len(poles), desc="concepts", unit="layer", delay=3, disable=None) as bar:
        for place, own in poles.items():
            d = next(c["d"] for c in info["columns"] if c["hook"] == place)
            for side in SIDES:
                tables += _of_side(summed, info, place, side, d, own, shared, random)
            bar.update()
    table = pd.concat([t for t in tables if len(t)], ignore_index=True)
    table.attrs["parameters"] = {"min_images": min_images, **{k: info["parameters"][k] for k in ("concepts", "folds")}}
    table.attrs["random"] = random
    return table


def _of_side(
    summed: Summed, info: dict[str, Any], place: str, side: Side, d: int, poles: Sequence[Pole],
    shared: Callable[[str, Side], SideSums], drawn: list[dict[str, Any]],
) -> list[pd.DataFrame]:  # fmt: skip
    if not summed.concepts[side] or not sees(place, side) or len(summed.images[side]) < MIN_FOLDS:
        return []
    site = at(place)[0]
    of_side = shared(site.name if site.indexed_by == "image" else ROWS, side)
    own = _measure(summed.read(f"{place}/{side}/"), d, of_side)
    random, read = None, summed.read(f"{place_of(place)}/{side}/")
    if any("n" in f for f in read):
        random = _measure(read, info["parameters"]["null_directions"], of_side)
        drawn += [_drawn(place, side, pole, of_side, random if pole == "+" else random.flipped()) for pole in poles]
    return [
        _rows(place, side, pole, of_side, own if pole == "+" else own.flipped(),
              random if random is None or pole == "+" else random.flipped())
        for pole in poles
    ]  # fmt: skip


def _measure(read: Sequence[dict[str, Tensor]], d: int, shared: SideSums) -> Measured:
    sums = FoldSums.of([read[i] for i in shared.there], d, len(shared.concepts))
    one, other = (sums.over(half).r()[0] for half in shared.halves)
    return Measured(sums, sums.over(range(len(shared.there))).r()[0], (one, other), shared.among)


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
        return pd.DataFrame({**table, **NOTHING, "n_folds": len(shared.there)})
    chosen = best(own.whole, allowed)
    low, high = own.bounds(chosen)
    table |= _named("concept", shared, chosen) | {
        "r": held_out(own.halves, allowed),
        "r_low": low, "r_high": high,
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
    table |= _runner_up(shared, own, chosen, allowed)
    table |= _several(shared, own, random, allowed)
    return pd.DataFrame({k: v.numpy() if isinstance(v, Tensor) else v for k, v in table.items()})


def _drawn(place: str, side: Side, pole: Pole, shared: SideSums, random: Measured) -> dict[str, Any]:
    """How many random units of a layer have which concept, as far as their interval is above 0."""
    site, layer = at(place)
    found: dict[str, int] = {}
    if bool(shared.allowed.any()):
        chosen = best(random.whole, shared.allowed)
        sure = chosen[random.bounds(chosen)[0] > 0].bincount(minlength=len(shared.concepts)).tolist()
        found = {c.name: n for c, n in zip(shared.concepts, sure, strict=True) if n}
    return {"site": site.name, "pole": pole, "layer": layer, "side": side, "n": len(random.whole), "concepts": found}


def _named(name: str, shared: SideSums, which: Tensor) -> dict[str, Any]:
    phrase = "phrase" if name == "concept" else f"{name}_phrase"
    found = [shared.concepts[i] for i in which.tolist()]
    return {name: [c.name for c in found], phrase: [c.phrase or c.name for c in found]}


def _runner_up(shared: SideSums, own: Measured, chosen: Int[Tensor, "d"], allowed: Bool[Tensor, "k"]) -> dict[str, Any]:
    if int(allowed.sum()) < 2:
        return {"runner_up": "", "runner_up_phrase": "", "r_runner_up": np.nan}
    second = best(own.whole.scatter(1, chosen[:, None], -torch.inf), allowed)
    return _named("runner_up", shared, second) | {"r_runner_up": own.whole.gather(1, second[:, None]).squeeze(1)}


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
