"""Pearson's r of units with concepts, from sums by fold: over any folds, with intervals, and with several concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.concept_sums import PAIRS

FLAT = 1e-8  # a variance so small beside the mean square is rounding
RIDGE = 1e-3  # of correlations among concepts
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
    def of(cls, folds: Sequence[dict[str, Tensor]], d: int, k: int) -> FoldSums:
        """From what the files of all folds hold of a place; an empty dict for a fold that has nothing of it."""
        shapes = {"n": (1, 1), "a": (d, 1), "aa": (d, 1), "c": (1, k), "cc": (1, k), "ac": (d, k)}
        found = []
        for name in PAIRS:
            whole = [
                f[name].double().view(shapes[name]) if name in f else torch.zeros(shapes[name], dtype=torch.float64)
                for f in folds
            ]
            if any("pairs/n" in f for f in folds):
                whole = [
                    w + f[f"pairs/{name}"].double() if "pairs/n" in f else w.expand(d, k)
                    for w, f in zip(whole, folds, strict=True)
                ]
            found.append(torch.stack(whole))
        return cls(*found)

    def over(self, folds: Sequence[int]) -> FoldSums:
        """Sums over some folds together, as one."""
        chosen = list(folds)
        return FoldSums(*(getattr(self, name)[chosen].sum(0, keepdim=True) for name in PAIRS))

    def without_each(self) -> FoldSums:
        """Sums over all folds but one, for each."""
        return FoldSums(*(getattr(self, name).sum(0, keepdim=True) - getattr(self, name) for name in PAIRS))

    def at(self, concept: Int[Tensor, "d"]) -> FoldSums:
        """Of one concept a unit."""

        def take(x: Tensor) -> Tensor:
            if x.shape[2] == 1:
                return x.expand(-1, len(concept), 1)
            return x.expand(-1, len(concept), -1).gather(2, concept[None, :, None].expand(len(x), -1, 1))

        return FoldSums(*(take(getattr(self, name)) for name in PAIRS))

    def r(self) -> Float[Tensor, "fold d k"]:
        """Pearson's r of each entry; 0 where either does not vary."""
        n = self.n.clamp(min=1)
        va, vc = self.aa - self.a**2 / n, self.cc - self.c**2 / n
        varies = (va > FLAT * self.aa) & (vc > FLAT * self.cc)
        scale = (va.clamp(min=0) * vc.clamp(min=0)).sqrt()
        varies = varies & (scale > 0)
        r = (self.ac - self.a * self.c / n) / torch.where(varies, scale, 1.0)
        return torch.where(varies, r, 0.0).clamp(-1, 1)


def concept_correlations(sums: dict[str, Tensor]) -> Float[Tensor, "k k"]:
    """Correlations among concepts, each over the places where both are known; 0 where either does not vary."""
    n, c, cc, gram = (sums[name] for name in ("m_jk", "c_jk", "cc_jk", "gram"))
    n = n.clamp(min=1)
    variance = (cc - c**2 / n).clamp(min=0)
    variance = torch.where(variance > FLAT * cc, variance, 0.0)
    scale = (variance * variance.T).sqrt()
    r = torch.where(scale > 0, (gram - c * c.T / n) / torch.where(scale > 0, scale, 1.0), 0.0)
    return r.clamp(-1, 1).fill_diagonal_(1.0)


def interval(
    sums: FoldSums, concept: Int[Tensor, "d"], level: float = 0.95
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Where r of a concept lies: a jackknife over folds of images, by Fisher's z and Student's t.

    Places of one image are not independent; folds of images are (facts: 95-98 % of such intervals hold the truth).
    """
    from scipy.stats import t

    own = sums.at(concept)
    z = own.without_each().r()[:, :, 0].clamp(-MAX_Z, MAX_Z).atanh()
    k = len(z)
    error = ((k - 1) / k * ((z - z.mean(0)) ** 2).sum(0)).sqrt()
    middle = own.over(range(k)).r()[0, :, 0].clamp(-MAX_Z, MAX_Z).atanh()
    half = float(t.ppf((1 + level) / 2, k - 1)) * error
    return (middle - half).tanh(), (middle + half).tanh()


def best(r: Float[Tensor, "d k"], allowed: Bool[Tensor, "k"]) -> Int[Tensor, "d"]:
    """The concept with the largest r of those that are allowed, the first of equals."""
    return r.masked_fill(~allowed, -torch.inf).argmax(1)


def held_out(
    halves: tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]], allowed: Bool[Tensor, "k"]
) -> Float[Tensor, "d"]:
    """r of the concept that one half of the data chooses, on the other half; the mean of both ways."""
    one, other = halves
    return (other.gather(1, best(one, allowed)[:, None]) + one.gather(1, best(other, allowed)[:, None])).squeeze(1) / 2


def whole_bank(r: Float[Tensor, "d k"], among: Float[Tensor, "k k"]) -> Float[Tensor, "d"]:
    """r^2 of the best weighted sum of all concepts, with a little ridge."""
    solved = torch.linalg.solve(among + RIDGE * torch.eye(len(among), dtype=among.dtype), r.T)
    return (r.T * solved).sum(0).clamp(0, 1)


def several(
    r: Float[Tensor, "d k"], among: Float[Tensor, "k k"], allowed: Bool[Tensor, "k"], size: int = 3
) -> list[tuple[Int[Tensor, "d m"], Float[Tensor, "d m"]]]:
    """Forward selection of concepts whose weights stay positive.

    Args:
        r: of units with concepts.
        among: of concepts with each other.
        allowed: concepts to choose from.
        size: how many at most.

    Returns:
        For 1, 2 ... `size` concepts which they are and their weights, on standardised concepts; a weight of 0 where
        there was no other that helps.
    """
    sets = best(r, allowed)[:, None]
    weights = r.gather(1, sets).clamp(min=0)
    found = [(sets, weights)]
    for m in range(1, size):
        own = among[sets[:, :, None], sets[:, None, :]] + 1e-10 * torch.eye(m, dtype=r.dtype)
        inverse = torch.linalg.inv(own)
        cross = among[sets]  # [d, m, k]
        p = torch.einsum("dij,djk->dik", inverse, cross)
        left = r - torch.einsum("dik,di->dk", p, r.gather(1, sets))  # covariance that is left, and variance
        spread = 1 - (p * cross).sum(1)
        new = left / spread.clamp(min=1e-12)
        old = torch.einsum("dij,dj->di", inverse, r.gather(1, sets))[..., None] - p * new[:, None]
        ok = allowed & (spread > 0.02) & (left > 0) & (old.amin(1) >= 0) & (weights[:, -1:] > 0)
        gain, j = torch.where(ok, left**2 / spread.clamp(min=1e-12), -1.0).max(1)
        j, helps = j[:, None], (gain > 0)[:, None]
        added = torch.cat([old.gather(2, j[:, None].expand(-1, m, 1)).squeeze(2), new.gather(1, j)], 1)
        kept = torch.cat([weights, torch.zeros_like(weights[:, :1])], 1)
        sets, weights = torch.cat([sets, torch.where(helps, j, sets[:, :1])], 1), torch.where(helps, added, kept)
        found.append((sets, weights))
    return found


def r_of_sum(
    r: Float[Tensor, "d k"], among: Float[Tensor, "k k"], sets: Int[Tensor, "d m"], weights: Float[Tensor, "d m"]
) -> Float[Tensor, "d"]:
    """r of each unit with its own weighted sum of standardised concepts; 0 where all weights are."""
    variance = torch.einsum("dm,dml,dl->d", weights, among[sets[:, :, None], sets[:, None, :]], weights)
    return (r.gather(1, sets) * weights).sum(1) / variance.clamp(min=1e-12).sqrt()
