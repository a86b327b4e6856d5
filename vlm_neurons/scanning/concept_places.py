"""The places of a batch on one side, with what a bank says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHORT = 256  # places that follow each other; below, they are copied to where they do
Where = slice | Tensor


@dataclass(frozen=True)
class Places:
    """Places of one side in a batch: those where every concept is known, or those where some are not.

    Attributes:
        at: where they are in the flattened tensor of a site, in pieces that follow each other.
        concepts: values, shifted; 0 where not known. In the order that products with units are quick in.
        known: where they are known; None: everywhere.
    """

    at: list[Where]
    concepts: Float[Tensor, "k n"]
    known: Bool[Tensor, "k n"] | None = None
    _on: dict[torch.device, Places] = field(default_factory=dict, repr=False)

    @cached_property
    def sums(self) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """S_c and S_cc, the same for all units."""
        c = self.concepts.double()
        return c.sum(1), (c * c).sum(1)

    def on(self, device: torch.device) -> Places:
        """On a device; a batch's are copied to each once, not for every layer."""
        if self.concepts.device == device:
            return self
        if device not in self._on:
            known = None if self.known is None else self.known.to(device)
            self._on[device] = Places(self.at, self.concepts.to(device), known)
        return self._on[device]

    def pieces(self) -> Iterator[tuple[Where, slice]]:
        """Where they are, and which of `concepts` that is."""
        first = 0
        for at in self.at:
            last = first + (at.stop - at.start if isinstance(at, slice) else len(at))
            yield at, slice(first, last)
            first = last


def places_at(at: Int[Tensor, "n"], values: Float[Tensor, "n k"], shift: Float[Tensor, "k"]) -> list[Places]:
    """Places at some numbers of a flattened tensor, in order, with what a bank says of them (NaN: not known)."""
    if not values.numel():
        return []
    concepts = (values - shift).T.contiguous()
    known = ~concepts.isnan()
    whole = known.all(0)
    if bool(whole.all()):
        return [Places(runs(at), concepts)]
    some, found = ~whole, []
    if bool(whole.any()):
        found.append(Places(runs(at[whole]), concepts[:, whole]))
    return [*found, Places(runs(at[some]), concepts[:, some].nan_to_num(0.0), known[:, some])]


def runs(at: Int[Tensor, "n"]) -> list[Where]:
    """Numbers as runs of neighbours, that need no copy; as they are where runs are so short that many small products
    would take longer than a copy and one large product.

    >>> runs(torch.arange(3, 1000)), runs(torch.tensor([3, 4, 8]))
    ([slice(3, 1000, None)], [tensor([3, 4, 8])])
    """
    cuts = [0, *((at.diff() != 1).nonzero().flatten() + 1).tolist(), len(at)]
    if len(cuts) > 2 and len(at) < SHORT * (len(cuts) - 1):
        return [at]
    return [slice(int(at[i]), int(at[j - 1]) + 1) for i, j in pairwise(cuts)]
