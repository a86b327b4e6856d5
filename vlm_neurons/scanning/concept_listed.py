"""Sums of units of which few fire, with concepts: from what is not 0, with rows for units that did fire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from vlm_neurons.scanning.concept_places import Places
from vlm_neurons.scanning.concept_sums import PAIRS, UnitSums
from vlm_neurons.scanning.fired import UNITS, Rows
from vlm_neurons.sites.sparse import Sparse

OF_UNITS = ("a", "aa", "ac", *(f"pairs/{name}" for name in PAIRS))  # have a row for every unit


@dataclass
class ListedSums:
    """`UnitSums` in float64, which needs no shift; row 0 is that of all units that have not fired (see `fired`).

    Attributes:
        rows: of the units.
        sums: by row.
    """

    rows: Rows
    sums: UnitSums

    @classmethod
    def empty(cls, d: int, k: int, device: torch.device | str) -> ListedSums:
        """Nothing seen yet."""
        sums = UnitSums.empty(1, k, device)
        sums.ac = sums.ac.double().contiguous()
        return cls(Rows(d, device), sums)

    def add(self, values: Sparse, places: Places) -> None:
        """Take in the units at some places of a batch."""
        number = torch.full((prod(values.shape[:-1]),), -1, device=values.position.device)
        for at, of in places.pieces():
            number[at] = torch.arange(of.start, of.stop, device=number.device)
        place = number[values.position]
        there = place >= 0
        place, value = place[there], values.value[there].double()
        self.rows.add(values.unit[there])
        self._grow()
        row, sums = self.rows.of[values.unit[there]], self.sums
        if places.known is not None:
            dense = value.new_zeros(places.concepts.shape[1], len(sums.a))
            dense[place, row] = value
            return sums.add_pairs(dense, places.concepts.double(), None, places.known)
        sums.add_concepts(places.concepts.shape[1], *places.sums)
        if len(value):
            sums.a.index_add_(0, row, value)
            sums.aa.index_add_(0, row, value * value)
            order, n = row.argsort(stable=True), torch.bincount(row, minlength=len(sums.a))
            sums.ac += torch.nn.functional.embedding_bag(
                place[order], places.concepts.T.double(), n.cumsum(0) - n, mode="sum", per_sample_weights=value[order]
            )

    def _grow(self) -> None:
        have, sums = len(self.sums.a), self.sums
        if have >= len(self.rows):
            return
        wanted = torch.arange(max(len(self.rows), have + have // 2), device=sums.a.device)
        wanted = torch.where(wanted < have, wanted, 0)
        sums.a, sums.aa, sums.ac = (one.index_select(0, wanted) for one in (sums.a, sums.aa, sums.ac))
        if sums.pairs is not None:
            sums.pairs = {name: one.index_select(0, wanted) for name, one in sums.pairs.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name, on the CPU, and the units of row 1 on, ascending."""
        units, order = self.rows.units.cpu().sort()
        rows = torch.cat([order.new_zeros(1), 1 + order])
        found = {name: one[rows] if name in OF_UNITS else one for name, one in self.sums.tensors().items()}
        return found | {UNITS: units.to(torch.int32)}


def row_of(units: Int[Tensor, "n"], wanted: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
    """Rows of some units, where the units of row 1 on are given, ascending.

    >>> row_of(torch.tensor([3, 7]), torch.tensor([7, 4, 3, 9])).tolist()
    [2, 0, 1, 0]
    """
    if not len(units):
        return torch.zeros_like(wanted)
    place = torch.searchsorted(units.to(wanted), wanted).clamp(max=len(units) - 1)
    return torch.where(units[place] == wanted, place + 1, 0)


def aligned(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums by name, where both have some of the same place, with rows for the units of both; `UNITS` is in the first
    alone, so that all names of the second can be added."""
    one, other = dict(a), dict(b)
    for name in [name for name in b if name.endswith(f"/{UNITS}") and name in a]:
        start = name.removesuffix(UNITS)
        units = torch.cat([a[name], b[name]]).unique().long()
        for sums, own in ((one, a[name]), (other, b[name])):
            rows = torch.cat([units.new_zeros(1), row_of(own, units)])
            sums.update({start + n: sums[start + n][rows] for n in OF_UNITS if start + n in sums})
        one[name] = units.to(torch.int32)
        del other[name]
    return one, other
