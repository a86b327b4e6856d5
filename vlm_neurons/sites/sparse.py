"""Values of units that are 0 nearly everywhere, by what is not 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEW = 0.03  # of the values: where more are not 0, to list them is no gain
CACHED, HELD = 1 << 20, 1 << 27  # numbers that are computed at a time: near a CPU's cache, in a GPU's memory
LEAST = 64  # positions at a time: for fewer, reading a large dictionary's weights would take most of the time


class Best(NamedTuple):
    """The values of some units at every position, and which units these are."""

    values: Float[Tensor, "*batch_pos k"]
    indices: Int[Tensor, "*batch_pos k"]


@dataclass(frozen=True, eq=False)
class Sparse:
    """A tensor [*batch_pos, unit] of which few values are not 0.

    Attributes:
        shape: of the tensor.
        position: of each value among all positions, counted through; ascending.
        unit: its unit.
        value: it itself, NaN and infinity included.
    """

    shape: tuple[int, ...]
    position: Int[Tensor, "n"]
    unit: Int[Tensor, "n"]
    value: Float[Tensor, "n"]

    @classmethod
    def of(cls, values: Float[Tensor, "*batch_pos unit"]) -> Sparse:
        """What is not 0 of a tensor.

        >>> Sparse.of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).unit.tolist()
        [1, 0]
        """
        flat = values.flatten(0, -2)
        position, unit = flat.nonzero(as_tuple=True)
        return cls(tuple(values.shape), position, unit, flat[position, unit])

    @classmethod
    def of_best(cls, best: Best, n_units: int) -> Sparse:
        """What is not 0 of the values of some units at each position."""
        values, units = best.values.flatten(0, -2), best.indices.flatten(0, -2)
        position, place = values.nonzero(as_tuple=True)
        return cls((*best.values.shape[:-1], n_units), position, units[position, place], values[position, place])

    def dense(self) -> Float[Tensor, "*batch_pos unit"]:
        """The tensor.

        >>> Sparse.of(torch.eye(2)).dense().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        flat = self.value.new_zeros(prod(self.shape[:-1]), self.shape[-1])
        flat[self.position, self.unit] = self.value
        return flat.view(self.shape)

    def some(self, units: Int[Tensor, "some"]) -> Float[Tensor, "*batch_pos some"]:
        """The values of some units, each once.

        >>> Sparse.of(torch.eye(3)).some(torch.tensor([2, 0])).tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
        """
        units = units.to(self.unit.device)
        number = self.unit.new_full((self.shape[-1],), -1)
        number[units] = torch.arange(len(units), device=units.device)
        place = number[self.unit]
        wanted = place >= 0
        found = self.value.new_zeros(prod(self.shape[:-1]), len(units))
        found[self.position[wanted], place[wanted]] = self.value[wanted]
        return found.view(*self.shape[:-1], len(units))

    def times(self, rows: Float[Tensor, "unit d"]) -> Float[Tensor, "*batch_pos d"]:
        """The tensor multiplied by a matrix.

        >>> Sparse.of(torch.eye(2)).times(torch.ones(2, 3)).shape
        torch.Size([2, 3])
        """
        n = torch.bincount(self.position, minlength=prod(self.shape[:-1]))
        return torch.nn.functional.embedding_bag(
            self.unit, rows, n.cumsum(0) - n, mode="sum", per_sample_weights=self.value.to(rows)
        ).view(*self.shape[:-1], rows.shape[1])


def in_parts(x: Float[Tensor, "*batch_pos d"], n_units: int, encode: Callable[[Tensor], Sparse]) -> Sparse | None:
    """Encode so many positions at a time that no tensor of all units at all positions is made.

    Args:
        x: what is encoded.
        n_units: of the result.
        encode: [pos, d] -> its units.

    Returns:
        None if more than `FEW` of the values of the first part are not 0.
    """
    size = max(LEAST, (CACHED if x.device.type == "cpu" else HELD) // n_units)
    found: list[Sparse] = []
    for part in _parts(x, size):
        found.append(encode(part))
        if len(found) == 1 and len(found[0].value) > FEW * part.shape[0] * n_units:
            return None
    starts = range(0, size * len(found), size)
    position = torch.cat([one.position + start for one, start in zip(found, starts, strict=True)])
    unit, value = torch.cat([one.unit for one in found]), torch.cat([one.value for one in found])
    return Sparse((*x.shape[:-1], n_units), position, unit, value)


def _parts(x: Tensor, size: int) -> Iterator[Tensor]:
    yield from x.flatten(0, -2).split(size)
