"""What a few hundred units of one place answer to on one side, from their sums: the numbers of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.concept_focus import focus
from vlm_neurons.scanning.concept_moments import FoldSums, best, held_out, held_out_interval
from vlm_neurons.scanning.concept_several import r_of_sum, several, whole_bank
from vlm_neurons.scanning.concept_shared import SideSums

AT_ONCE = 1024  # units: so few that what is made of them stays in a processor's cache
RARE = 0.95  # a second concept counts where its gain is above that of so many random units


@dataclass(frozen=True)
class Measured:
    """r of some units of one place on one side, with the sign of one pole.

    Attributes:
        sums: by fold.
        shared: what all units of the side share.
        halves: r over each half.
        whole: r over all folds.
        each: r over each fold.
        sign: 1 or -1.
    """

    sums: FoldSums
    shared: SideSums
    halves: tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]
    whole: Float[Tensor, "d k"]
    each: Float[Tensor, "fold d k"]
    sign: int = 1

    @classmethod
    def of(cls, read: Sequence[Mapping[str, Tensor]], d: int, shared: SideSums, units: slice = slice(None)) -> Measured:
        """Of some of the `d` units of a place, of what the files of all folds hold of it."""
        sums = FoldSums.of([read[i] for i in shared.there], d, len(shared.concepts), units)
        one, other = (sums.over(half) for half in shared.halves)
        return cls(sums, shared, (one.r()[0], other.r()[0]), (one + other).r()[0], sums.r())

    def flipped(self) -> Measured:
        """Of the other pole: r of -a is -r of a."""
        one, other = self.halves
        return replace(self, halves=(-one, -other), whole=-self.whole, each=-self.each, sign=-self.sign)

    @cached_property
    def chosen(self) -> Int[Tensor, "d"]:
        """The concept of each."""
        return best(self.whole, self.shared.allowed)

    @cached_property
    def chosen_by_halves(self) -> tuple[Int[Tensor, "d"], Int[Tensor, "d"]]:
        """The concept that each half chooses."""
        one, other = (best(r, self.shared.allowed) for r in self.halves)
        return one, other

    def held(self, kept: Bool[Tensor, "k"]) -> Float[Tensor, "d"]:
        """Held-out r among some concepts; NaN without one."""
        return held_out(self.halves, kept) if bool(kept.any()) else torch.full_like(self.whole[:, 0], torch.nan)

    @cached_property
    def every(self) -> Float[Tensor, "d"]:
        """r^2 of the best weighted sum of the whole bank."""
        return whole_bank(self.whole, self.shared.bank_inverse).clamp(min=1e-12)

    @cached_property
    def share_one(self) -> Float[Tensor, "d"]:
        """r^2 of the chosen concept over that of the whole bank; 0 where r is negative."""
        r = self.whole.gather(1, self.chosen[:, None]).squeeze(1)
        return (r.clamp(min=0) ** 2 / self.every).clamp(max=1)

    @cached_property
    def focus(self) -> Float[Tensor, "d"]:
        """See `concept_focus`."""
        specific, generic = self.shared.specific, self.shared.generic & self.shared.allowed
        return focus(self.held(specific), self.held(generic), self.share_one)

    def bounds(self) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
        """The interval of held-out r."""
        one, other = self.chosen_by_halves
        return held_out_interval(self.sums, self.shared.halves, (other, one), self.sign)

    def gains(self) -> Float[Tensor, "three d"]:
        """Held-out r of one, two and three concepts, fitted on one half and told on the other, both ways."""
        both, among = [], self.shared.among
        for fit, told in ((0, 1), (1, 0)):
            chosen = several(self.halves[fit], among[1 + fit], self.shared.allowed)
            both.append(torch.stack([r_of_sum(self.halves[told], among[1 + told], s, w) for s, w in chosen]))
        return (both[0] + both[1]) / 2

    def folds_agree(self) -> Int[Tensor, "d"]:
        """In how many folds alone no other concept has a larger r than the chosen one."""
        own = self.each.gather(2, self.chosen.expand(len(self.each), -1)[..., None]).squeeze(2)
        others = self.each if bool(self.shared.allowed.all()) else self.each.masked_fill(~self.shared.allowed, -1.0)
        return (own >= others.amax(2)).sum(0)


@dataclass(frozen=True)
class Null:
    """What random units of a layer reach, on one side, by one pole.

    Attributes:
        focus: of each, sorted; None where there is no specific concept.
        gains: what a second, and a third concept adds to most of them at most.
    """

    focus: Float[Tensor, "n"] | None
    gains: Float[Tensor, "two"]

    @classmethod
    def of(cls, random: Measured) -> Null:
        """Of all random units of a layer."""
        held = random.gains()
        return cls(
            random.focus.sort().values if bool(random.shared.specific.any()) else None,
            (held[1:] - held[:-1]).quantile(RARE, 1).clamp(min=0),
        )


def told_of(own: Measured, null: Null | None) -> dict[str, Tensor]:
    """Columns of the table: of concepts their numbers, -1 for none."""
    shared, allowed = own.shared, own.shared.allowed
    low, high = own.bounds()
    r = own.whole.gather(1, own.chosen[:, None]).squeeze(1)
    found = {
        "concept": own.chosen, "r": held_out(own.halves, allowed), "r_low": low, "r_high": high, "r_all": r,
        "halves_agree": torch.stack([c == own.chosen for c in own.chosen_by_halves]).all(0),
        "n_images": shared.images[0].long()[own.chosen],
    }  # fmt: skip
    for name, kept in (("specific", shared.specific), ("generic", shared.generic & allowed)):
        there = bool(kept.any())
        found[name] = best(own.whole, kept) if there else torch.full_like(own.chosen, -1)
        found[f"r_{name}"] = own.held(kept)
    found["focus"] = own.focus
    found["p_random"] = torch.full_like(r, torch.nan)
    if null is not None and null.focus is not None:
        above = len(null.focus) - torch.searchsorted(null.focus, own.focus)
        found["p_random"] = (1 + above) / (1 + len(null.focus))
    found["folds_agree"] = own.folds_agree()
    return found | _runner_up(own) | _several(own, null)


def _runner_up(own: Measured) -> dict[str, Tensor]:
    allowed, at = own.shared.allowed, own.chosen[:, None]
    if int(allowed.sum()) < 2:
        return {
            "runner_up": torch.full_like(own.chosen, -1),
            "r_runner_up": torch.full_like(own.whole[:, 0], torch.nan),
        }
    second = best(own.whole.scatter(1, at, -torch.inf), allowed)
    return {"runner_up": second, "r_runner_up": own.whole.gather(1, second[:, None]).squeeze(1)}


def _several(own: Measured, null: Null | None) -> dict[str, Tensor]:
    """Shares of the bank's r^2, and further concepts where they gain more than random units mostly do."""
    among = own.shared.among[0]
    chosen = several(own.whole, among, own.shared.allowed)
    r = [r_of_sum(own.whole, among, s, w) for s, w in chosen]
    held = own.gains()
    found = {
        "share_one": own.share_one, "share_three": (r[2] ** 2 / own.every).clamp(max=1),
        "r_two": held[1], "r_three": held[2],
    }  # fmt: skip
    counts: Bool[Tensor, "d"] = torch.full_like(own.chosen, null is not None, dtype=torch.bool)
    for m, name in ((1, "second"), (2, "third")):
        if null is not None:
            counts = counts & (held[m] - held[m - 1] > null.gains[m - 1]) & (chosen[m][1][:, m] > 0)
        found[name] = torch.where(counts, chosen[m][0][:, m], -1)
    return found | weights_of(own.shared.spreads, chosen, 1 + (found["second"] >= 0).long() + (found["third"] >= 0))


def weights_of(
    spreads: Float[Tensor, "k"], chosen: Sequence[tuple[Tensor, Tensor]], sizes: Int[Tensor, "d"]
) -> dict[str, Tensor]:
    """How much an activation rises with a whole place of each of the concepts that count, over the largest of these."""
    slopes = torch.zeros(len(sizes), len(chosen), dtype=torch.float64)
    for m, (sets, weights) in enumerate(chosen, 1):
        here = sizes == m
        slopes[here, :m] = (weights / spreads[sets].clamp(min=1e-12)).double()[here]
    slopes /= slopes.amax(1, keepdim=True).clamp(min=1e-30)
    return {f"weight_{i}": slopes[:, i] for i in range(len(chosen))}
