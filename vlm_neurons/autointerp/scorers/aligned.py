"""Real and simulated activations side by side, cut into what a score treats as one: an image, or a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

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
        weight: how many samples it stands for; NaN where a part of the data has nothing that stands for it.
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

    @cached_property
    def pair(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Real and simulated values of the places that count."""
        return self.real[self.counts], self.simulated[self.counts]

    @cached_property
    def sums(self) -> Float[np.ndarray, "6"]:
        """n, sum x, sum y, sum xx, sum yy, sum xy of them; x real, y simulated."""
        x, y = self.pair
        return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def pieces_of(
    evidence: Evidence, exemplars: Sequence[Exemplar], predictions: Sequence[Prediction], side: Side
) -> list[Piece]:
    """All pieces of some exemplars that have a prediction on a side.

    The others of its stratum stand for what failed. Where all of a stratum failed nothing does, and no weight is known:
    what is left speaks of less than the whole data.
    """
    found: list[tuple[int, Any, Any, Any]] = []
    every = _real(evidence, tuple(exemplars), side).parts
    for number, (e, own, guess) in enumerate(zip(exemplars, every, predictions, strict=True)):
        values = guess.patch_acts if side == "picture" else () if guess.token_acts is None else (guess.token_acts,)
        for (real, counts), simulated in zip(own, values, strict=bool(values)):
            said = np.asarray(simulated, float)
            known = ~np.isnan(said := said if side == "picture" else said[e.seen.is_text])
            if (counted := counts & known).any():  # a place without a prediction does not count
                found.append((number, real, said if known.all() else np.where(known, said, 0.0), counted))
    came = Counter(exemplars[i].stratum for i in {number for number, *_ in found})
    asked = _asked(evidence, exemplars, side)
    more = {s: n / came[s] for s, n in asked.items()} if asked.keys() == came.keys() else dict.fromkeys(came, np.nan)
    return summed([
        Piece(number, e.group == "top", side, real, said, counted, e.stratum, e.weight * more[e.stratum],
              e.group == "pool")
        for number, real, said, counted in found for e in (exemplars[number],)
    ])  # fmt: skip


def summed(pieces: list[Piece]) -> list[Piece]:
    """The same pieces, whose sums are known: made for all at once, which is faster than one by one."""
    counts, x, y = (
        np.concatenate([np.zeros(0), *(getattr(p, name).ravel() for p in pieces)])
        for name in ("counts", "real", "simulated")
    )
    x, y = (np.where(counts > 0, values, 0.0) for values in (x, y))
    starts = np.cumsum([0, *(p.counts.size for p in pieces)])[:-1]
    every = np.stack([counts, x, y, x * x, y * y, x * y])
    for piece, own in zip(pieces, np.add.reduceat(every, starts, axis=1).T if pieces else (), strict=True):
        vars(piece)["sums"] = own  # where the cached property looks first
    return pieces


def unheard(evidence: Evidence, exemplars: Sequence[Exemplar], pieces: Sequence[Piece], side: Side) -> set[str]:
    """Strata of exemplars that have no piece on a side, though they have places that count."""
    return {*_asked(evidence, exemplars, side)} - {p.stratum for p in pieces}


def _asked(evidence: Evidence, exemplars: Sequence[Exemplar], side: Side) -> Counter[str]:
    """How many exemplars have places that count on a side, by stratum."""
    every = _real(evidence, tuple(exemplars), side).parts
    return Counter(e.stratum for e, own in zip(exemplars, every, strict=True) if any(c.any() for _, c in own))


@dataclass(frozen=True)
class _Real:
    """One side of exemplars, of all places one after the other.

    Attributes:
        values: activations on the 0-10 scale.
        counts: places that count: with a value, and no sink.
        parts: the same of every image, or of the response, of every exemplar.
    """

    values: Float[np.ndarray, " place"]
    counts: Bool[np.ndarray, " place"]
    parts: list[list[tuple[Float[np.ndarray, "..."], Bool[np.ndarray, "..."]]]]


@lru_cache(maxsize=8)  # an explanation after the other is tried on the same exemplars
def _real(evidence: Evidence, exemplars: tuple[Exemplar, ...], side: Side) -> _Real:
    if side == "picture":
        own = [[*zip(e.patch_acts, e.seen.patch_sinks, strict=True)] for e in exemplars]
    else:
        own = [[(e.token_acts[e.seen.is_text], e.seen.token_sinks[e.seen.is_text])] for e in exemplars]
    every = [pair for pairs in own for pair in pairs]
    raw = np.concatenate([np.zeros(0, np.float32), *(acts.ravel() for acts, _ in every)])
    sinks = np.concatenate([np.zeros(0, bool), *(sunk.ravel() for _, sunk in every)])
    values, counts = np.nan_to_num(evidence.scale(raw)).astype(float), ~np.isnan(raw) & ~sinks
    ends = np.cumsum([acts.size for acts, _ in every], dtype=int).tolist()
    cut = iter(zip([0, *ends], ends, [acts.shape for acts, _ in every], strict=False))
    parts = [
        [(values[a:b].reshape(shape), counts[a:b].reshape(shape)) for a, b, shape in islice(cut, len(pairs))]
        for pairs in own
    ]
    return _Real(values, counts, parts)


def flat(
    evidence: Evidence, exemplars: Sequence[Exemplar], side: Side
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, " place"], Float[np.ndarray, "n"]]:
    """Activations on the 0-10 scale at the places that count, one exemplar after the other; which places these are; and
    how many each stands for."""
    real = _real(evidence, tuple(exemplars), side)
    sizes = [sum(int(np.count_nonzero(c)) for _, c in own) for own in real.parts]
    return real.values[real.counts], real.counts, np.repeat([e.weight for e in exemplars], sizes)


def resolved(pieces: Sequence[Piece], resolution: Resolution) -> list[Piece]:
    """The truth in the place of the simulation, as finely as a simulator could have said it."""
    # what does not count is no part of a cell's mean: a sink would lift its cell
    return summed([replace(p, simulated=resolution.of(np.where(p.counts, p.real, np.nan))) for p in pieces])
