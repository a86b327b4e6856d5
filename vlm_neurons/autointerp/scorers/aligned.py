"""Real and simulated activations side by side, cut into what a score treats as one: an image, or a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Prediction, Resolution, Side
    from vlm_neurons.evidence import Evidence, Exemplar


@dataclass(frozen=True, eq=False)
class Piece:
    """One image, or the response, of one exemplar.

    Attributes:
        exemplar: place of the exemplar among those scored.
        top: whether it is one of the strongest samples (else a random one).
        side: `"picture"` or `"text"`.
        real: activations on the 0-10 scale: [rows, columns], or [token] of the response.
        simulated: predictions, of the same shape.
        counts: places that count: with a value, and no sink.
        stratum: what the exemplar was drawn from.
        weight: how many samples it stands for.
        extra: whether it is neither one of the top samples nor of the random ones.
    """

    exemplar: int
    top: bool
    side: Side
    real: Float[np.ndarray, "*place"]
    simulated: Float[np.ndarray, "*place"]
    counts: Bool[np.ndarray, "*place"]
    stratum: str = ""
    weight: float = 1.0
    extra: bool = False

    @property
    def pair(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Real and simulated values of the places that count."""
        return self.real[self.counts], self.simulated[self.counts]


def pieces_of(
    evidence: Evidence, exemplars: Sequence[Exemplar], predictions: Sequence[Prediction], side: Side
) -> list[Piece]:
    """All pieces of some exemplars that have a prediction on a side; what failed is left out."""
    found = []
    for number, (e, guess) in enumerate(zip(exemplars, predictions, strict=True)):
        if side == "picture":
            for patches, simulated, counts in zip(
                e.patch_acts, guess.patch_acts, e.scored_patches(), strict=bool(guess.patch_acts)
            ):
                real = np.nan_to_num(evidence.scale(patches)).astype(float)
                found.append(_piece(number, e, side, real, np.asarray(simulated, float), counts))
        elif guess.token_acts is not None:
            said = e.seen.is_text
            real = np.nan_to_num(evidence.scale(e.token_acts)).astype(float)[said]
            found.append(_piece(number, e, side, real, np.asarray(guess.token_acts, float)[said],
                                e.scored_tokens()[said]))  # fmt: skip
    lost = _lost(exemplars, predictions)
    return [replace(p, weight=p.weight * lost.get(p.stratum, 1.0)) for p in found if p.counts.any()]


def _lost(exemplars: Sequence[Exemplar], predictions: Sequence[Prediction]) -> dict[str, float]:
    """How many more samples each one stands for, by stratum, since others failed."""
    every = Counter(e.stratum for e in exemplars)
    came = Counter(e.stratum for e, guess in zip(exemplars, predictions, strict=True) if guess.failure is None)
    return {stratum: every[stratum] / n for stratum, n in came.items()}


def _piece(number: int, e: Exemplar, side: Side, real: np.ndarray, simulated: np.ndarray, counts: np.ndarray) -> Piece:
    """A place without a prediction does not count."""
    known = counts & ~np.isnan(simulated)
    kept = np.nan_to_num(simulated)
    return Piece(number, e.group == "top", side, real, kept, known, e.stratum, e.weight, e.group == "pool")


def resolved(pieces: Sequence[Piece], resolution: Resolution) -> list[Piece]:
    """The truth in the place of the simulation, as finely as a simulator could have said it."""
    # what does not count is no part of a cell's mean: a sink would lift its cell
    return [replace(p, simulated=resolution.of(np.where(p.counts, p.real, np.nan))) for p in pieces]
