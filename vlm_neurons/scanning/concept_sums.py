"""Sums over places from which Pearson's r of every unit with every concept follows, for any choice of folds.

Of a unit's value a and a concept's value c at the places of one side: the numbers of places, S_a, S_aa, S_c, S_cc and
S_ac. Where a batch has every unit and every concept at all of its places, the first five are vectors and S_ac is one
matrix product. Where a sample is not annotated for a concept, or a unit is not defined, the six differ from pair to
pair, and six products are needed; they are kept apart (`Pairs`), and only for the places that need them. Values are
shifted by constants first: r does not change, and sums of float32 stay exact where means are far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PAIRS = ("n", "a", "aa", "c", "cc", "ac")


@dataclass
class UnitSums:
    """Of the units of one place on one side.

    Attributes:
        n: places where everything is known.
        a: S_a there.
        aa: S_aa there.
        c: S_c there.
        cc: S_cc there.
        ac: S_ac there.
        pairs: of the other places; None where there were none yet. Each of `PAIRS` is [unit, concept].
    """

    n: Float[Tensor, ""]
    a: Float[Tensor, "d"]
    aa: Float[Tensor, "d"]
    c: Float[Tensor, "k"]
    cc: Float[Tensor, "k"]
    ac: Float[Tensor, "d k"]
    pairs: dict[str, Tensor] | None = None

    @classmethod
    def empty(cls, d: int, k: int, device: torch.device | str = "cpu") -> UnitSums:
        """Nothing seen yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(zeros(), zeros(d), zeros(d), zeros(k), zeros(k), _products(d, k, device))

    def add(self, values: Float[Tensor, "n d"], concepts: Float[Tensor, "k n"]) -> None:
        """Take in the units at places where everything is known; both are shifted, in float32. What is of concepts
        alone is the same for all units of a batch: see `add_concepts`."""
        self.a += values.sum(0)
        self.aa += torch.linalg.vecdot(values, values, dim=0)
        self.ac.T.addmm_(concepts, values)

    def add_concepts(self, n: int, c: Float[Tensor, "k"], cc: Float[Tensor, "k"]) -> None:
        """Take in S_c and S_cc of n places that `add` is given."""
        self.n += n
        self.c += c
        self.cc += cc

    def add_pairs(
        self,
        values: Float[Tensor, "n d"],
        concepts: Float[Tensor, "k n"],
        defined: Bool[Tensor, "n d"] | None,
        known: Bool[Tensor, "k n"] | None,
    ) -> None:
        """Take in places where units are not defined or concepts not known; both are shifted, and 0 there. None:
        everywhere."""
        if self.pairs is None:
            self.pairs = {name: torch.zeros_like(self.ac) for name in PAIRS}  # in the order of `ac`
        d = torch.ones_like(values) if defined is None else defined.to(values)
        m = torch.ones_like(concepts) if known is None else known.to(concepts)
        for name, left, right in (
            ("n", d, m), ("a", values, m), ("aa", values * values, m),
            ("c", d, concepts), ("cc", d, concepts * concepts), ("ac", values, concepts),
        ):  # fmt: skip
            self.pairs[name].T.addmm_(right, left)

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name, on the CPU."""
        found = {name: getattr(self, name) for name in PAIRS}
        found |= {f"pairs/{name}": sums for name, sums in (self.pairs or {}).items()}
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


@dataclass
class ConceptSums:
    """Of the concepts of one side, by pairs j, k where both are known, at the places of one kind of site.

    Attributes:
        m_jk: places.
        c_jk: sum of c_j.
        cc_jk: sum of c_j^2.
        gram: sum of c_j c_k.
        present: images (of the text: samples) that have the concept anywhere.
        annotated: images or samples for which it is known.
    """

    m_jk: Float[Tensor, "k k"]
    c_jk: Float[Tensor, "k k"]
    cc_jk: Float[Tensor, "k k"]
    gram: Float[Tensor, "k k"]
    present: Float[Tensor, "k"]
    annotated: Float[Tensor, "k"]

    @classmethod
    def empty(cls, k: int) -> ConceptSums:
        """Nothing seen yet."""
        shapes = {"present": (k,), "annotated": (k,)}
        return cls(*(torch.zeros(shapes.get(f.name, (k, k)), dtype=torch.float64) for f in fields(cls)))

    def add(self, concepts: Float[Tensor, "k n"], known: Bool[Tensor, "k n"] | None) -> None:
        """Take in places; the values are shifted, and 0 where they are not known. None: everything is known."""
        c = concepts.double()
        gram = c @ c.T
        self.gram += gram
        if known is None:
            self.m_jk += c.shape[1]
            self.c_jk += c.sum(1)[:, None]
            self.cc_jk += gram.diagonal()[:, None]
            return
        m = known.double()
        self.m_jk += m @ m.T
        self.c_jk += c @ m.T
        self.cc_jk += (c * c) @ m.T

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name."""
        return {f.name: getattr(self, f.name).contiguous() for f in fields(self)}


def _products(d: int, k: int, device: torch.device | str) -> Float[Tensor, "d k"]:
    """Zeros for sums of products, a concept's beside each other: products of matrices are quicker in this order."""
    return torch.zeros(k, d, device=device).T


def add_up(into: dict[str, Tensor], sums: Mapping[str, Tensor]) -> None:
    """Add sums by name; what is not there yet counts as 0."""
    for name, tensor in sums.items():
        into[name] = into[name] + tensor if name in into else tensor.clone()


def sums_bytes(d: int, k: int) -> int:
    """Bytes of `UnitSums` where everything is known.

    >>> sums_bytes(10, 3)
    336
    """
    return 8 + 16 * d + 16 * k + 4 * d * k


def concepts_bytes(k: int) -> int:
    """Bytes of `ConceptSums`.

    >>> concepts_bytes(3)
    336
    """
    return 32 * k * k + 16 * k
