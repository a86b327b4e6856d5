"""What counts as a unit: the protocol that neurons, experts, dictionaries, directions and heads fit alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.sites.sparse import Sparse

Pole = Literal["+", "-"]
IndexedBy = Literal["row", "image"]
Tensors = Mapping[str, Tensor]  # hook name -> what the hook holds
Weights = Callable[[str, int], Float[Tensor, "d_model unit"]]  # (site, layer) -> what its units are multiplied by


class Address(NamedTuple):
    """A unit.

    Attributes:
        place: which layer of which site: the hook name where units are coordinates of a hook, else `NAME:L12`.
        unit: which one there.
        pole: `"+"` for its value, `"-"` for the negation.
    """

    place: str
    unit: int
    pole: Pole


@runtime_checkable
class Site(Protocol):
    """A kind of unit. Subclass it: what has a body here suits a dictionary with ids `NAME:L12F345`.

    Attributes:
        name: what a scan is asked for and ids start with; without ":", "," and blanks, and not ending in "-".
        signed: whether both poles are of interest.
        indexed_by: `"row"` if dimension 0 of what it reads is the batch row, `"image"` if it is the image.
    """

    name: str
    signed: bool
    indexed_by: IndexedBy

    @property
    def layered(self) -> bool:
        """Whether there can be more than one layer: a mask of its units is [layer, unit] then, else [unit]."""
        return True

    def layers(self, points: Iterable[str]) -> list[int]:
        """The layers that a model with these hook points has units in."""
        ...

    def places(self, points: Iterable[str]) -> list[str]:
        """What a scan of this site looks at in a model with these hook points: its layers, as `place` names them."""
        return [self.place(layer) for layer in self.layers(points)]

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """Hooks to read, in the order in which they fire."""
        ...

    def edited(self, layer: int) -> str:
        """The hook that `edit` changes: of it and all that are read the last to fire."""
        return self.hooks([layer])[-1]

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "*batch_pos unit"], Bool[Tensor, "*batch_pos unit"] | None]:
        """Values of all units of one layer, and where they are defined (None: everywhere).

        Where a unit is not defined (the neuron of an expert that was not chosen) its value does not matter: it is left
        out of scans, NaN in evidence and recordings, and edits leave it alone.

        Args:
            tensors: the `hooks` of that layer.
        """
        ...

    def read_sparse(self, tensors: Tensors) -> Sparse | None:
        """As `read`, of units that are defined everywhere and 0 nearly everywhere; None for others. Scans ask for it
        first.

        Args:
            tensors: as for `read`.
        """
        return None

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "*batch_pos unit"]
    ) -> dict[str, Tensor]:
        """Tensors that hold other values of some units. Values that `read` gave are no change, whatever else the edited
        hook holds; those of undefined units are always such.

        Args:
            tensors: the `hooks` of one layer and the hook that is edited; they are left as they are.
            units: indices [unit]; None: all of them, in order.
            values: what they are to be.

        Returns:
            The edited hook's tensor, by its name.
        """
        ...

    def fitted(self, layer: int) -> list[str]:
        """Hooks that `explained` needs beside those that are read, all of which fire before."""
        return []

    def explained(
        self, tensors: Tensors, values: Float[Tensor, "*batch_pos unit"] | Sparse
    ) -> tuple[Float[Tensor, "*batch_pos d"], Float[Tensor, "*batch_pos d"], Float[Tensor, "..."]] | None:
        """What the units stand for (dictionaries: what they are encoded from; transcoders: what the MLP puts out), what
        their values make of it, and what none would: how well that fits is summed up while scanning. None: they are not
        made to explain anything.

        Args:
            tensors: the `hooks` and what is `fitted`.
            values: what `read` or `read_sparse` gave.
        """
        return None

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """What one unit of each adds to the residual stream.

        Raises:
            ValueError: units of this site do not write there.
            IndexError: there is no such layer.
        """
        raise ValueError(f"site {self.name!r} does not write to the backbone: its units have no direction there")

    def written(self, layer: int) -> str:
        """The place of what `directions` are multiplied by: this layer, but for neurons whose value is multiplied by
        something else first."""
        return self.place(layer)

    def fingerprint(self) -> str:
        """Digest of what decides the values beside the model; a run goes on only with the same."""
        ...

    def place(self, layer: int) -> str:
        """What names one layer of this site; see `Address`."""
        return f"{self.name}:L{layer}"

    def layer_of(self, place: str) -> int | None:
        """The layer that a place names; None for a place that is not of this site."""
        found = re.fullmatch(rf"{re.escape(self.name)}:L(\d+)", place)
        return int(found[1]) if found else None

    def parse(self, id: str) -> Address | None:
        """Read an id; None for what is no id of this site.

        Raises:
            ValueError: it has the form of this site's ids, and there can be no such unit.
        """
        found = re.fullmatch(rf"{re.escape(self.name)}:L(\d+)F(\d+)(-?)", id)
        return Address(self.place(int(found[1])), int(found[2]), "-" if found[3] else "+") if found else None

    def id(self, address: Address) -> str:
        """The inverse of `parse`."""
        return f"{address.place}F{address.unit}{'-' if address.pole == '-' else ''}"

    def ids(self, place: str, pole: Pole, n: int) -> list[str]:
        """Ids of the first units of a place. The number of a unit is the last one of its id, unless this is replaced:
        a frame around it saves building hundreds of thousands of addresses."""
        before, after = self.id(Address(place, 0, pole)).rsplit("0", 1)
        return [before + number + after for number in _numbers(n)]


@lru_cache(4)
def _numbers(n: int) -> tuple[str, ...]:
    """0, 1, 2 ..., written: layers are of the same width."""
    return tuple(map(str, range(n)))
