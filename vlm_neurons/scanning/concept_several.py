"""How far several concepts together tell what a unit does: forward selection, and the best sum of a whole bank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.concept_moments import best

RIDGE = 1e-3  # of correlations among concepts
ALIKE = 0.02  # of a concept's variance, what those chosen before must leave of it


def bank_inverse(among: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """Of correlations among all concepts of a bank, with a little ridge."""
    return torch.linalg.inv(among + RIDGE * torch.eye(len(among), dtype=among.dtype))


def whole_bank(r: Float[Tensor, "d k"], inverse: Float[Tensor, "k k"]) -> Float[Tensor, "d"]:
    """r^2 of the best weighted sum of all concepts; `inverse` as of `bank_inverse`."""
    return torch.linalg.vecdot(r @ inverse, r).clamp(0, 1)


@dataclass
class _Fit:
    """Least squares of units on few concepts each, made orthogonal one after the other (Gram and Schmidt).

    Attributes:
        left: covariance of units with every concept that is left.
        spread: variance of every concept that is left.
        axes: of the concepts that are in, the covariance of every concept with the part that was new in each.
        along: covariance of units with these parts.
        upper: of every concept that is in, its covariances with its own part and those before.
    """

    left: Float[Tensor, "d k"]
    spread: Float[Tensor, "d k"]
    axes: list[Float[Tensor, "d k"]]
    along: list[Float[Tensor, "d"]]
    upper: list[list[Float[Tensor, "d"]]]

    def weights_with(self, j: Int[Tensor, "d"], units: Int[Tensor, "u"]) -> Float[Tensor, "u m"]:
        """Weights of all concepts that are in, and of one more each."""
        own, at = j[units], units
        root = self.spread[at, own].clamp(min=ALIKE).sqrt()
        upper = [[x[at] for x in column] for column in self.upper] + [[*(a[at, own] for a in self.axes), root]]
        along = [*(x[at] for x in self.along), self.left[at, own] / root]
        weights: list[Tensor] = []
        for i in reversed(range(len(along))):
            rest = sum((upper[i + 1 + n][i] * w for n, w in enumerate(reversed(weights))), torch.zeros_like(root))
            weights.append((along[i] - rest) / upper[i][i])
        return torch.stack(weights[::-1], 1)

    def take_in(self, j: Int[Tensor, "d"], among: Float[Tensor, "k k"], there: Bool[Tensor, "d"]) -> None:
        """One more concept each, where there is one."""
        at = j[:, None]
        column = [axis.gather(1, at).squeeze(1) * there for axis in self.axes]
        axis = among.index_select(0, j)
        for before, part in zip(self.axes, column, strict=True):
            axis.addcmul_(before, part[:, None], value=-1)
        root = torch.where(there, self.spread.gather(1, at).squeeze(1).clamp(min=ALIKE).sqrt(), 1.0)
        axis *= (there / root)[:, None]
        along = self.left.gather(1, at).squeeze(1) / root * there
        self.left = torch.addcmul(self.left, axis, along[:, None], value=-1)
        self.spread = torch.addcmul(self.spread, axis, axis, value=-1)
        self.axes.append(axis)
        self.along.append(along)
        self.upper.append([*column, root])


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
    first = best(r, allowed)
    if not bool(allowed.all()):  # the others have no covariance with anything, and never help
        r, among = r * allowed, among * allowed * allowed[:, None]
    fit = _Fit(r, torch.ones_like(r), [], [], [])
    sets, weights = first[:, None], r.gather(1, first[:, None]).clamp(min=0)
    found, there = [(sets, weights)], weights[:, 0] > 0
    for _ in range(1, size):
        fit.take_in(sets[:, -1], among, there)
        j, added = _next(fit, there)
        there = (added[:, -1] > 0) & there
        kept = torch.cat([weights, torch.zeros_like(weights[:, :1])], 1)
        sets = torch.cat([sets, torch.where(there, j, first)[:, None]], 1)
        weights = torch.where(there[:, None], added, kept)
        found.append((sets, weights))
    return found


def _next(fit: _Fit, there: Bool[Tensor, "d"]) -> tuple[Int[Tensor, "d"], Float[Tensor, "d m"]]:
    """The concept that adds most of those that leave all weights positive, and the weights with it; 0 where none does.

    Weights are looked at of the one that adds most only, then of the next where that will not do: that is seldom."""
    gain = fit.left.clamp(min=0).square_().div_(fit.spread.clamp(min=ALIKE))
    j, weights = torch.zeros(len(gain), dtype=torch.long), torch.zeros(len(gain), len(fit.axes) + 1, dtype=gain.dtype)
    units = there.nonzero().flatten()
    while len(units):
        most = gain[units] if len(units) < len(gain) else gain
        own = torch.from_numpy(most.numpy().argmax(1))
        ends = gain[units, own] <= 0
        j[units] = own
        tried = fit.weights_with(j, units)
        good = (tried.amin(1) >= 0) & (fit.spread[units, own] > ALIKE) & ~ends
        weights[units[good]] = tried[good]
        units, own = units[~good & ~ends], own[~good & ~ends]
        gain[units, own] = -1.0
    return j, weights


def r_of_sum(
    r: Float[Tensor, "d k"], among: Float[Tensor, "k k"], sets: Int[Tensor, "d m"], weights: Float[Tensor, "d m"]
) -> Float[Tensor, "d"]:
    """r of each unit with its own weighted sum of standardised concepts; 0 where all weights are."""
    variance = (among[sets[:, :, None], sets[:, None, :]] * weights[:, :, None] * weights[:, None, :]).sum((1, 2))
    return (r.gather(1, sets) * weights).sum(1) / variance.clamp(min=1e-12).sqrt()
