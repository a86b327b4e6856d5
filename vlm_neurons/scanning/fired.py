"""The state of units of which few ever fire: rows for those that did, and one row for all others.

A unit that is 0 everywhere has what every other such unit has (zeros, the earliest samples, a count of images), so one
row of a state stands for all of them: row 0. When a unit fires for the first time, its own row begins as a copy of that
one, and nothing is lost. What is kept grows with what fires, and is equal to a row for every unit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from vlm_neurons.scanning.moments import Moments
from vlm_neurons.scanning.state import TopSamples

P = TypeVar("P", TopSamples, Moments)
UNITS = "units"  # name of the tensor in a block


def rows_of(part: P, rows: Int[Tensor, "row"]) -> P:
    """Some rows of a state, in this order.

    >>> rows_of(Moments.empty(3), torch.tensor([0, 0])).n_images.tolist()
    [0, 0]
    """
    return replace(part, **{field.name: getattr(part, field.name).index_select(0, rows) for field in fields(part)})


class Rows:
    """Which row of a state every unit has while a block is scanned.

    Args:
        d: units.
        device: where.

    Attributes:
        of: row of every unit; 0 for one that has not fired yet.
        units: of row 1 on, in the order in which they came.

    >>> rows = Rows(4, "cpu")
    >>> rows.add(torch.tensor([2, 2]))
    >>> rows.add(torch.tensor([0, 2]))
    >>> rows.of.tolist(), rows.units.tolist(), len(rows)
    ([2, 0, 1, 0], [2, 0], 3)
    """

    def __init__(self, d: int, device: torch.device | str) -> None:
        self.of = torch.zeros(d, dtype=torch.int64, device=device)
        self.units = self.of.new_zeros(0)

    def __len__(self) -> int:
        return 1 + len(self.units)

    def add(self, fired: Int[Tensor, "n"]) -> None:
        """Give units that fire a row, those that have none."""
        new = fired[self.of[fired] == 0].unique()
        self.of[new] = torch.arange(len(self), len(self) + len(new), device=new.device)
        self.units = torch.cat([self.units, new])

    def to(self, device: torch.device | str) -> Rows:
        """The same on a device."""
        moved = Rows(0, device)
        moved.of, moved.units = self.of.to(device), self.units.to(device)
        return moved

    def grown(self, part: P) -> P:
        """A state with a row for every unit that has one, and some to spare: to make room at every batch would copy the
        state as often. Rows to spare stand for units that have not fired, as row 0 does."""
        have = len(getattr(part, fields(part)[0].name))
        if have >= len(self):
            return part
        wanted = torch.arange(max(len(self), have + have // 2), device=self.of.device)
        return rows_of(part, torch.where(wanted < have, wanted, 0))

    def kept(self, part: P) -> Fired[P]:
        """The state as a block stores it: units in order, whatever the order in which they fired."""
        units, order = self.units.sort()
        return Fired(len(self.of), units, rows_of(part, torch.cat([order.new_zeros(1), 1 + order])))


@dataclass
class Fired(Generic[P]):
    """The state of the units of one place, those that never fired in one row.

    Attributes:
        d: units.
        units: those that fired, ascending.
        part: row 0 of all others, then theirs.
    """

    d: int
    units: Int[Tensor, "n"]
    part: P

    @property
    def rows(self) -> Int[Tensor, "d"]:
        """Row of every unit."""
        rows = torch.zeros(self.d, dtype=torch.int64, device=self.units.device)
        rows[self.units] = torch.arange(1, 1 + len(self.units), device=rows.device)
        return rows

    def whole(self) -> P:
        """A row for every unit."""
        return rows_of(self.part, self.rows)

    def merge(self, other: Fired[P]) -> None:
        """Take in a state of other samples."""
        units = torch.cat([self.units, other.units]).unique()
        mine = self._of(units)
        mine.merge(other._of(units))
        self.units, self.part = units, mine

    def _of(self, units: Int[Tensor, "n"]) -> P:
        return rows_of(self.part, torch.cat([units.new_zeros(1), self.rows[units]]))

    def to(self, device: torch.device | str) -> Fired[P]:
        """The state on a device."""
        return Fired(self.d, self.units.to(device), self.part.to(device))

    @property
    def nbytes(self) -> int:
        """Size of the state."""
        return self.units.nbytes + self.part.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """By name, on the CPU, as a block stores it."""
        return self.part.tensors() | {UNITS: self.units.to(torch.int32).cpu()}
