"""Pearson's r of units with concepts, from sums by fold: over any folds, chosen on a half, and with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor

from vlm_neurons.scanning.concept_listed import row_of
from vlm_neurons.scanning.concept_sums import PAIRS
from vlm_neurons.scanning.fired import UNITS

FLAT = 1e-8  # a variance so small beside the mean square is rounding
MAX_Z = 0.999999


@dataclass(frozen=True)
class FoldSums:
    """Sums of a place on one side, fold by fold, in float64. Where all pairs share a number, its dimension is 1.

    Attributes:
        n: places; S_a, S_aa, S_c, S_cc, S_ac follow as in `concept_sums`.
    """

    n: Float[Tensor, "fold d1 k1"]
    a: Float[Tensor, "fold d k1"]
    aa: Float[Tensor, "fold d k1"]
    c: Float[Tensor, "fold d1 k"]
    cc: Float[Tensor, "fold d1 k"]
    ac: Float[Tensor, "fold d k"]

    @classmethod
    def of(cls, folds: Sequence[Mapping[str, Tensor]], d: int, k: int, units: slice = slice(None)) -> FoldSums:
        """From what the files of all folds hold of a place; an empty dict for a fold that has nothing of it.

        Args:
            folds: of every fold its sums by name.
            d: units of the place.
            k: concepts.
            units: those that are wanted: a few hundred at a time stay in a processor's cache.
        """
        wanted = torch.arange(*units.indices(d))
        some, own = (
            len(wanted),
            [(row_of(f[UNITS], wanted), 1 + len(f[UNITS])) if UNITS in f else (units, d) for f in folds],
        )
        rows, columns = {"a", "aa", "ac"}, {"c", "cc", "ac"}
        pairs, found = any("pairs/n" in f for f in folds), []
        for name in PAIRS:
            columns_of = k if name in columns else 1
            both = (some, k) if pairs else (some if name in rows else 1, columns_of)
            found.append(torch.zeros(len(folds), *both, dtype=torch.float64))
            for into, fold, (of, n) in zip(found[-1], folds, own, strict=True):
                if name in fold:
                    into.copy_(fold[name].view(n, columns_of)[of] if name in rows else fold[name].view(1, columns_of))
                if "pairs/n" in fold:
                    into.add_(fold[f"pairs/{name}"][of])
        return cls(*found)

    def over(self, folds: Sequence[int]) -> FoldSums:
        """Sums over some folds together, as one."""
        chosen = list(folds)
        return FoldSums(*(reduce(torch.add, [x[i] for i in chosen])[None] for x in self._all))

    def __add__(self, others: FoldSums) -> FoldSums:
        """The sums of other parts of the data added to these."""
        return FoldSums(*(x + y for x, y in zip(self._all, others._all, strict=True)))

    def without_each(self) -> FoldSums:
        """Sums over all folds but one, for each."""
        return FoldSums(*(x.sum(0, keepdim=True) - x for x in self._all))

    def at(self, concept: Int[Tensor, "d"]) -> FoldSums:
        """Of one concept a unit."""

        def take(x: Tensor) -> Tensor:
            if x.shape[2] == 1:
                return x.expand(-1, len(concept), 1)
            return x.expand(-1, len(concept), -1).gather(2, concept[None, :, None].expand(len(x), -1, 1))

        return FoldSums(*(take(x) for x in self._all))

    def only(self, folds: Sequence[int]) -> FoldSums:
        """Of some folds, each by itself."""
        return FoldSums(*(x[list(folds)] for x in self._all))

    def r(self) -> Float[Tensor, "fold d k"]:
        """Pearson's r of each entry; 0 where either does not vary."""
        n = self.n.clamp(min=1)
        of_a, of_c = (_inverse_spread(s, ss, n) for s, ss in ((self.a, self.aa), (self.c, self.cc)))
        return torch.addcmul(self.ac, self.a / n, self.c, value=-1).mul_(of_a).mul_(of_c).clamp_(-1, 1)

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.n, self.a, self.aa, self.c, self.cc, self.ac


def _inverse_spread(s: Tensor, ss: Tensor, n: Tensor) -> Tensor:
    """1 over the root of a sum of squares about the mean; 0 where that is rounding."""
    left = ss - s**2 / n
    return torch.where(left > FLAT * ss, left, torch.inf).rsqrt()


def concept_correlations(sums: dict[str, Tensor]) -> Float[Tensor, "k k"]:
    """Correlations among concepts, each over the places where both are known; 0 where either does not vary."""
    n, c, cc, gram = (sums[name] for name in ("m_jk", "c_jk", "cc_jk", "gram"))
    n = n.clamp(min=1)
    variance = (cc - c**2 / n).clamp(min=0)
    variance = torch.where(variance > FLAT * cc, variance, 0.0)
    scale = (variance * variance.T).sqrt()
    r = torch.where(scale > 0, (gram - c * c.T / n) / torch.where(scale > 0, scale, 1.0), 0.0)
    return r.clamp(-1, 1).fill_diagonal_(1.0)


def concept_spreads(sums: dict[str, Tensor]) -> Float[Tensor, "k"]:
    """Standard deviation of every concept over the places where it is known."""
    n, c, cc = (sums[name].diagonal() for name in ("m_jk", "c_jk", "cc_jk"))
    return ((cc - c**2 / n.clamp(min=1)).clamp(min=0) / n.clamp(min=1)).sqrt()


def best(r: Float[Tensor, "d k"], allowed: Bool[Tensor, "k"]) -> Int[Tensor, "d"]:
    """The concept with the largest r of those that are allowed, the first of equals."""
    among = r if bool(allowed.all()) else r + torch.where(allowed, 0.0, -torch.inf).to(r.dtype)
    return torch.from_numpy(among.numpy().argmax(1))  # torch's takes ten times as long


def held_out(
    halves: tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]], allowed: Bool[Tensor, "k"]
) -> Float[Tensor, "d"]:
    """r of the concept that one half of the data chooses, on the other half; the mean of both ways."""
    one, other = halves
    return (other.gather(1, best(one, allowed)[:, None]) + one.gather(1, best(other, allowed)[:, None])).squeeze(1) / 2


def held_out_interval(
    sums: FoldSums,
    halves: tuple[Sequence[int], Sequence[int]],
    chosen: tuple[Int[Tensor, "d"], Int[Tensor, "d"]],
    sign: int = 1,
    level: float = 0.95,
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Where the mean lies of what `held_out` tells: a jackknife over folds of images, by Fisher's z and Student's t.

    Places of one image are not independent; folds of images are. Folds are left out of the half that r is told on, in
    turn; the choice was made on the other half, so that the interval, as r, knows nothing of the data it was made on.
    There are two halves and each has its own mean: of the folds, two degrees of freedom are lost.

    Args:
        sums: by fold.
        halves: places of the folds of each half.
        chosen: the concepts that are told on the first half, and on the second.
        sign: -1 for r of -a.
        level: how often the interval shall hold the truth.
    """
    own = [sums.at(concept).only(half) for concept, half in zip(chosen, halves, strict=True)]
    r = [sign * s.over(range(len(half))).r()[0, :, 0] for s, half in zip(own, halves, strict=True)]
    variance = torch.zeros_like(r[0])
    for half, rest in ((0, r[1]), (1, r[0])):
        z = _z((sign * own[half].without_each().r()[:, :, 0] + rest) / 2)
        variance += (len(z) - 1) / len(z) * ((z - z.mean(0)) ** 2).sum(0)
    middle = _z((r[0] + r[1]) / 2)
    wide = float(stdtrit(sum(map(len, halves)) - 2, (1 + level) / 2)) * variance.sqrt()
    return (middle - wide).tanh(), (middle + wide).tanh()


def _z(r: Tensor) -> Tensor:
    return r.clamp(-MAX_Z, MAX_Z).atanh()
